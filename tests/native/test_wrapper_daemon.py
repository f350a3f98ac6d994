# SPDX-License-Identifier: Apache-2.0
"""The wrapper while daemons die and start again, and in processes that fork, crowd or are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_process import (
    AGAIN,
    CONTEXT_BYTES,
    MEMORY,
    MIB,
    NOWAIT,
    OUT_OF_MEMORY,
    Build,
    raw_alloc,
    raw_tree,
    settled,
)

# ---- The daemon comes and goes ----


def test_a_waiting_request_survives_the_daemon(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    (first,) = daemon.waiting()
    assert not first.flags & AGAIN
    daemon.die()
    assert not program.answered(waiting)
    daemon.start()
    daemon.until(lambda: len(daemon.waiting()) == 1)
    (second,) = daemon.waiting()
    assert second.flags & AGAIN
    assert second.since_ns == first.since_ns
    assert second.size_bytes == first.size_bytes
    assert daemon.asked("HELLO")[-1].request == daemon.page().instance
    daemon.release_others(64 * MIB)
    assert program.result(waiting)[0] == "0"
    assert len(daemon.pages) == 1
    assert daemon.account().used == CONTEXT_BYTES + 64 * MIB


def test_a_process_waits_for_a_daemon_that_is_not_there_yet(start: Any, daemon: FakeDaemon) -> None:
    daemon.die()
    program = start()
    program.do("resolve", "dlsym")
    started = program.begin("init", 0)
    assert not program.answered(started)
    time.sleep(0.3)
    daemon.start()
    assert program.result(started) == ["0"]
    assert program.do("retain", 0) == ["0"]
    errors = program.end()
    assert errors.count("not reachable") == 1  # said once, not with every try


def test_an_idle_connection_of_a_dead_daemon_is_replaced(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.die()
    daemon.start()
    program.alloc(8 * MIB)
    assert not daemon.asked()[-1].flags & AGAIN  # the daemon that died was never asked
    assert len(daemon.pages) == 1


def test_a_lost_connection_is_not_the_program_s_error(start: Any, daemon: FakeDaemon) -> None:
    program = start()
    client, device = raw_tree(program, "long")
    raw_alloc(program, "long", client, device, MEMORY, 2 * MIB)
    daemon.die()
    daemon.start()
    answer = raw_alloc(program, "long", client, device, MEMORY, 4 * MIB)
    assert (answer[0], answer[4]) == ("0", "12345")  # errno as the program had it


def test_memory_is_freed_and_used_again_without_a_daemon(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    pointer = program.alloc(64 * MIB)
    daemon.die()
    assert program.do("free", pointer) == ["0"]
    program.alloc(64 * MIB)


def test_failing_closed_is_to_wait_for_a_daemon(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.die()
    waiting = program.begin("&alloc", 64 * MIB)
    time.sleep(4)  # longer than a process with the other policy waits
    assert not program.answered(waiting)
    daemon.start()
    assert program.result(waiting)[0] == "0"


def test_failing_open_is_to_go_on_unlimited_after_a_while(start: Any, daemon: FakeDaemon) -> None:
    daemon.fail_open = True
    daemon.limit_bytes = CONTEXT_BYTES + 16 * MIB
    program = start().ready()
    daemon.die()
    first = program.begin("&alloc", 64 * MIB)
    time.sleep(1)
    assert not program.answered(first)  # a daemon that starts anew takes less than the while
    assert program.result(first)[0] == "0"
    before_s = time.monotonic()
    program.alloc(64 * MIB)
    assert time.monotonic() - before_s < 1
    account = daemon.account()
    assert account.used == CONTEXT_BYTES + 128 * MIB
    assert account.granted < account.used  # nobody granted it; the next daemon heals that
    daemon.start()
    assert program.do("alloc", 64 * MIB)[0] == OUT_OF_MEMORY
    assert program.end().count("fail open") == 1


def test_signals_do_not_end_a_wait(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    program.do("noise")
    for _ in range(20):
        os.kill(program.process.pid, signal.SIGUSR1)
        time.sleep(0.005)
    assert not any(message.flags & AGAIN for message in daemon.asked())
    daemon.release_others(64 * MIB)
    assert program.result(waiting)[0] == "0"


def test_a_crowd_of_waiting_threads_leaves_few_connections(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    crowd = [program.begin("&alloc", 4 * MIB) for _ in range(20)]
    daemon.until(lambda: len(daemon.waiting()) == 20)
    assert daemon.connections() >= 20
    daemon.release_others(80 * MIB)
    assert all(program.result(member)[0] == "0" for member in crowd)
    daemon.until(lambda: daemon.connections() <= 5)
    descriptors = [int(entry.name) for entry in Path(f"/proc/{program.process.pid}/fd").iterdir()]
    assert len(descriptors) <= 3 + 1 + 5  # standard ones, the driver's, connections; no page was left open
    assert min(sorted(descriptors)[4:]) >= 500  # out of the way of programs that close and open by number


# ---- Processes ----


def test_the_child_of_a_fork_has_its_own_account(start: Any, daemon: FakeDaemon) -> None:
    program = start()
    program.do("resolve", "dlsym")
    program.do("init", 0)
    parent_page = daemon.page()
    program.begin("fork")
    child = int(program.result("child")[0])
    client, device = raw_tree(program, "long")
    assert raw_alloc(program, "long", client, device, MEMORY, 6 * MIB)[:2] == ["0", "0"]
    daemon.until(lambda: len(daemon.pages) == 2)
    assert daemon.page(1).pid == child
    assert daemon.account(1).used == 6 * MIB
    program.begin("quit")
    assert program.result("reaped") == ["0"]
    assert parent_page.account().used == 0
    assert program.do("retain", 0) == ["0"]
    assert daemon.account(0).used == CONTEXT_BYTES


def test_what_the_parent_holds_is_not_the_child_s_to_free(start: Any, daemon: FakeDaemon) -> None:
    program = start()
    client, device = raw_tree(program, "long")
    memory = raw_alloc(program, "long", client, device, MEMORY, 6 * MIB)[2]
    program.begin("fork")
    program.result("child")
    other_client, other_device = raw_tree(program, "long")
    raw_alloc(program, "long", other_client, other_device, MEMORY, 2 * MIB)
    program.do("raw", "free", client, memory)
    assert daemon.account(1).used == 2 * MIB
    assert settled(daemon, 1)
    program.begin("quit")
    program.result("reaped")
    assert daemon.account(0).used == 6 * MIB


def test_a_fork_while_another_thread_waits_leaves_the_child_free(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    forked = program.begin("fork")
    program.result("child")
    raw_tree(program, "long")
    program.begin("quit")
    program.result("reaped")
    program.result(forked)
    daemon.release_others(64 * MIB)
    assert program.result(waiting)[0] == "0"


def test_an_unguarded_process_is_left_alone(start: Any, daemon: FakeDaemon) -> None:
    daemon.hello = "UNMANAGED"
    program = start().ready()
    program.alloc(512 * MIB)
    assert program.do("info")[2] == str(1 << 30)
    assert len(daemon.messages) == 1  # HELLO
    assert program.end() == ""


def test_a_refused_process_gets_no_memory(start: Any, daemon: FakeDaemon) -> None:
    daemon.hello = "REFUSED"
    program = start()
    program.do("resolve", "dlsym")
    assert program.do("init", 0) == ["0"]
    assert program.do("retain", 0) == [OUT_OF_MEMORY]
    assert program.do("retain", 0) == [OUT_OF_MEMORY]
    assert program.end().count("refuse") == 2  # one line: "refuses this process ... is refused"


def test_a_process_without_cuda_says_nothing(build: Build, daemon: FakeDaemon) -> None:
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": str(build.wrapper), "CONVGPU_SOCKET": str(daemon.path)}
    code = """
import ctypes, os
ctypes.CDLL(None).strlen(b"x")
print(os.listdir("/proc/self/fd"), len(os.listdir("/proc/self/task")))
"""
    plain = {"PATH": os.environ["PATH"]}
    command = [shutil.which("python3") or "python3", "-c", code]
    with_wrapper = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    without = subprocess.run(command, env=plain, check=True, capture_output=True, text=True)
    assert (with_wrapper.stdout, with_wrapper.stderr) == (without.stdout, "")
    assert daemon.messages == []
    assert daemon.connections() == 0


def test_debugging_goes_where_it_is_told(start: Any, daemon: FakeDaemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = start(CONVGPU_LOG=log).ready()
    assert program.end() == ""
    assert "joined" in log.read_text()


# ---- Many at once ----


def test_64_threads_leave_an_exact_account(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES - 96 * MIB  # not all 64 have room at once: some wait
    pairs, failures = map(int, program.result(program.begin("stress", 64, 1), timeout_s=60))
    assert failures == 0
    assert pairs > 64
    account = daemon.account()
    assert account.used == CONTEXT_BYTES
    assert account.reserved == 0
    assert account.granted == account.credit + account.used
    assert account.allocations - account.frees == 3
    assert account.peak <= CONTEXT_BYTES + 96 * MIB
    assert any(not message.flags & NOWAIT for message in daemon.asked())


@pytest.mark.parametrize("number", range(5))
def test_a_killed_process_leaves_a_page_that_still_adds_up(start: Any, daemon: FakeDaemon, number: int) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES - 32 * MIB
    program.begin("stress", 16, 20)
    time.sleep(0.1 + 0.037 * number)
    program.process.kill()
    program.process.wait()
    daemon.until(lambda: daemon.connections() == 0)
    account = daemon.account()
    assert account.granted >= account.credit + account.used + account.reserved
    daemon.others_bytes = 0
    start().ready()  # and nothing that it left behind is in the way of the next one
