# SPDX-License-Identifier: Apache-2.0
"""The wrapper in real processes: a driver and a resource manager made for tests below it, a small daemon beside it."""

from __future__ import annotations

from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_process import CONTEXT_BYTES, MIB, OUT_OF_MEMORY, settled

# ---- Requests ----


def test_small_requests_take_a_chunk_once(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    first = program.alloc(4096)
    second = program.alloc(4096)
    assert daemon.account().used == CONTEXT_BYTES + 2 * MIB
    assert program.do("free", first) == ["0"]
    assert daemon.account().used == CONTEXT_BYTES + 2 * MIB
    assert program.do("free", second) == ["0"]
    assert daemon.account().used == CONTEXT_BYTES
    assert settled(daemon)


def test_a_request_beyond_the_limit_is_refused_at_once(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 64 * MIB
    program = start().ready()
    assert program.do("alloc", 128 * MIB)[0] == OUT_OF_MEMORY
    assert daemon.account().refusals == 0  # the driver was not even asked
    program.alloc(16 * MIB)  # and the program goes on
    assert settled(daemon)


@pytest.mark.parametrize("size_bytes", [4 * MIB, 65536])
def test_the_limit_is_exact(start: Any, daemon: FakeDaemon, size_bytes: int) -> None:
    daemon.limit_bytes = CONTEXT_BYTES + 8 * MIB
    program = start().ready()
    held = 0
    while program.do("alloc", size_bytes)[0] == "0":
        held += size_bytes
    assert held == 8 * MIB
    assert daemon.account().used == daemon.limit_bytes
    assert settled(daemon)


def test_a_request_waits_until_others_release(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert not program.answered(waiting)
    daemon.release_others(64 * MIB)
    assert program.result(waiting)[0] == "0"
    assert daemon.account().used == CONTEXT_BYTES + 64 * MIB
    assert settled(daemon)


def test_a_small_request_waits_as_well(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    waiting = program.begin("&alloc", 4096)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.account().refusals == 1
    daemon.release_others(2 * MIB)
    assert program.result(waiting)[0] == "0"
    assert daemon.account().used == CONTEXT_BYTES + 2 * MIB


def test_waiting_can_end_in_denial(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    daemon.deny_waiting()
    assert program.result(waiting)[0] == OUT_OF_MEMORY
    assert settled(daemon)


def test_a_waiting_thread_keeps_no_other_from_freeing(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 256 * MIB
    program = start().ready()
    pointer = program.alloc(100 * MIB)
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES - 100 * MIB
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert program.do("free", pointer) == ["0"]  # announced, since somebody waits: this very process
    assert program.result(waiting)[0] == "0"
    assert len(daemon.asked("RELEASED")) >= 1
    assert daemon.account().used == CONTEXT_BYTES + 64 * MIB


def test_freed_memory_is_used_again_without_a_message(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    assert program.do("free", program.alloc(64 * MIB)) == ["0"]
    before = len(daemon.messages)
    for _ in range(10):
        assert program.do("free", program.alloc(64 * MIB)) == ["0"]
    assert len(daemon.messages) == before
    account = daemon.account()
    assert account.credit >= 64 * MIB
    assert account.balanced


def test_the_driver_s_own_failure_gives_everything_back(start: Any, daemon: FakeDaemon) -> None:
    program = start(FAKE_RM_CAPACITY=32 * MIB).ready()
    assert program.do("alloc", 64 * MIB)[0] == OUT_OF_MEMORY
    account = daemon.account()
    assert account.used == CONTEXT_BYTES
    assert account.refusals == 0
    assert settled(daemon)


def test_null_and_zero_are_the_driver_s_to_judge(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    before = len(daemon.messages)
    assert program.do("alloc", 0)[0] == "1"
    assert program.do("alloc_null", 4096) == ["1"]
    assert program.do("info_null") == ["0"]
    assert program.do("free", 0) == ["0"]
    assert program.do("free", 12345) == ["1"]
    assert [message for message in daemon.messages[before:] if message.type == daemon.abi.lib.CVG_ACQUIRE] == []


def test_without_a_context_the_driver_says_so(start: Any, daemon: FakeDaemon) -> None:
    daemon.gpus = 2
    program = start(FAKE_GPUS=2)
    program.do("resolve", "dlsym")
    program.do("init", 0)
    assert program.do("alloc", 64 * MIB)[0] == "201"
    assert program.do("info")[0] == "201"
    assert daemon.asked() == []


def test_a_page_that_was_written_over_makes_no_credit(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    pointers = [program.alloc(8 * MIB), program.alloc(8 * MIB)]
    before = daemon.account().credit
    daemon.page().raw.device[0].used_bytes = 10 * MIB
    assert program.do("free", pointers[0]) == ["0"]
    assert program.do("free", pointers[1]) == ["0"]
    assert daemon.account().used == 0
    assert daemon.account().credit == before + 10 * MIB  # what left the account, not what was said to have been there


# ---- Contexts ----


@pytest.mark.parametrize("context", ["retain", "create"])
def test_a_context_waits_for_its_memory(start: Any, daemon: FakeDaemon, context: str) -> None:
    daemon.others_bytes = daemon.capacity_bytes - 4 * MIB  # room for a third of it
    program = start()
    program.do("resolve", "dlsym")
    program.do("init", 0)
    waiting = program.begin(context, 0)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    daemon.release_others(CONTEXT_BYTES)
    assert program.result(waiting) == ["0"]
    account = daemon.account()
    assert account.used == CONTEXT_BYTES
    assert account.context == CONTEXT_BYTES
    assert settled(daemon)


def test_a_call_that_waits_twice_keeps_its_place(start: Any, daemon: FakeDaemon) -> None:
    daemon.others_bytes = daemon.capacity_bytes - 4 * MIB
    program = start()
    program.do("resolve", "dlsym")
    program.do("init", 0)
    waiting = program.begin("retain", 0)
    daemon.until(lambda: [message.size_bytes for message in daemon.waiting()] == [8 * MIB])
    (first,) = daemon.waiting()
    daemon.release_others(4 * MIB)
    daemon.until(lambda: [message.size_bytes for message in daemon.waiting()] == [12 * MIB])
    (second,) = daemon.waiting()
    assert second.since_ns == first.since_ns
    daemon.release_others(4 * MIB)
    assert program.result(waiting) == ["0"]


def test_a_known_cost_is_reserved_before_the_driver_is_asked(start: Any, daemon: FakeDaemon) -> None:
    daemon.context_hint_bytes = CONTEXT_BYTES
    daemon.others_bytes = daemon.capacity_bytes
    program = start()
    program.do("resolve", "dlsym")
    program.do("init", 0)
    waiting = program.begin("retain", 0)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.account().refusals == 0
    daemon.release_others(CONTEXT_BYTES)
    assert program.result(waiting) == ["0"]
    assert daemon.account().used == CONTEXT_BYTES
    assert program.do("retain", 0) == ["0"]  # the second time it is there already
    assert len(daemon.asked()) == 1


def test_a_hint_beyond_the_limit_proves_nothing(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = CONTEXT_BYTES
    daemon.context_hint_bytes = 2 * CONTEXT_BYTES
    start().ready()
    assert daemon.account().used == CONTEXT_BYTES


def test_a_context_beyond_the_limit_is_refused(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = CONTEXT_BYTES - 1
    program = start()
    program.do("resolve", "dlsym")
    program.do("init", 0)
    assert program.do("retain", 0) == [OUT_OF_MEMORY]
    assert daemon.account().used == 0
    assert settled(daemon)


# ---- View ----


def test_memory_info_is_the_limit_and_what_is_left_of_it(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 100 * MIB
    program = start().ready()
    assert program.do("info") == ["0", str(100 * MIB - CONTEXT_BYTES), str(100 * MIB)]
    program.alloc(20 * MIB)
    assert program.do("info") == ["0", str(80 * MIB - CONTEXT_BYTES), str(100 * MIB)]


def test_memory_info_never_promises_more_than_the_device_has(start: Any, daemon: FakeDaemon) -> None:
    program = start(FAKE_RM_CAPACITY=64 * MIB).ready()
    assert program.do("info") == ["0", str(64 * MIB - CONTEXT_BYTES), str(64 * MIB)]


def test_memory_info_works_while_the_daemon_is_away(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 100 * MIB
    program = start().ready()
    daemon.die()
    assert program.do("info") == ["0", str(100 * MIB - CONTEXT_BYTES), str(100 * MIB)]
