# SPDX-License-Identifier: Apache-2.0
"""Memory that ends with the open file of its client: the driver's figure and the account agree, whoever closes how."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu
from wrapper_process import CLIENT, DEVICE, MEMORY, MIB, OUT_OF_MEMORY, Build, Program, raw_alloc, raw_tree, settled

simulated = pytest.mark.parametrize(
    "gpu", [pytest.param("simulated", marks=[pytest.mark.fuse, pytest.mark.root])], indirect=True
)
"""Commands made by hand: a real driver wants more of them than these tests make."""
EBADF = "9"
PIDFD_GETFD = 438
"""System call number, on every machine."""


class Files:
    """A program and the descriptors of the resource manager that it opens."""

    def __init__(self, program: Program, gpu: Gpu, daemon: FakeDaemon) -> None:
        self.program, self.gpu, self.daemon = program, gpu, daemon

    def do(self, verb: str, *arguments: object) -> int:
        return int(self.program.do("file", verb, *arguments)[0])

    def open(self) -> int:
        return self.do("open", self.gpu.folder / "nvidiactl")

    def tree(self, descriptor: int) -> tuple[str, str]:
        """A client and a device, made through the descriptor."""
        self.do("use", descriptor)
        return raw_tree(self.program, "long")

    def fill(self, descriptor: int, size_bytes: int) -> str:
        """A client with memory; returns the client."""
        client, device = self.tree(descriptor)
        assert raw_alloc(self.program, "long", client, device, MEMORY, size_bytes)[1] == "0"
        return client

    def opened(self, size_bytes: int = 8 * MIB) -> int:
        """A descriptor with memory behind it."""
        descriptor = self.open()
        self.fill(descriptor, size_bytes)
        return descriptor

    def ask(self) -> None:
        """Let the process ask the daemon for memory, which is when it looks for what ended unseen."""
        other = self.open()
        client, device = self.tree(other)
        asked = raw_alloc(self.program, "long", client, device, MEMORY, self.daemon.account().credit + MIB)
        assert asked[1] == "0"
        self.do("close", other)

    def used(self) -> int:
        """What the account says; it has to be what the device says."""
        used = self.daemon.account().used
        assert used == self.gpu.held_by(self.program.process.pid)
        return used


@pytest.fixture
def files(start: Any, gpu: Gpu, daemon: FakeDaemon) -> Files:
    return Files(start(**gpu.settings), gpu, daemon)


def locks_of(program: Program, descriptor: int) -> int:
    return Path(f"/proc/{program.process.pid}/fdinfo/{descriptor}").read_text().count("OFDLCK")


# ---- The last descriptor ----


@simulated
def test_closing_the_descriptor_gives_back_what_hung_on_it_and_nothing_else(files: Files, daemon: FakeDaemon) -> None:
    first, second = files.opened(8 * MIB), files.opened(16 * MIB)
    files.fill(first, 4 * MIB)  # another client through the same descriptor
    assert files.used() == 28 * MIB
    assert files.program.do("file", "close", first) == ["0", "0"]
    assert files.used() == 16 * MIB
    assert (daemon.account().credit, daemon.account().frees) == (12 * MIB, 2)
    assert files.do("close", second) == 0
    assert files.used() == 0
    assert settled(daemon)


@simulated
@pytest.mark.parametrize("verb", ["dup2", "dup3"])
def test_another_file_in_its_place_closes_it_too(files: Files, verb: str) -> None:
    descriptor, other = files.opened(), files.open()
    assert files.do(verb, other, descriptor) == descriptor
    assert files.used() == 0
    assert files.do(verb, other, 9999) == 9999  # nothing is in the way of the others
    files.fill(descriptor, 4 * MIB)
    assert files.used() == 4 * MIB


@simulated
def test_what_is_given_back_is_announced_to_who_waits(files: Files, daemon: FakeDaemon) -> None:
    files.program.ready()
    descriptor = files.opened(64 * MIB)
    daemon.others_bytes = daemon.capacity_bytes - daemon.account().used
    waiting = files.program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    files.do("close", descriptor)
    assert files.program.result(waiting)[0] == "0"
    files.used()


@simulated
def test_a_driver_that_is_closed_under_its_program_holds_nothing(files: Files, daemon: FakeDaemon) -> None:
    close_every_driver_file(files)
    assert files.used() == 0
    assert settled(daemon)


@pytest.mark.parametrize("gpu", [pytest.param("real", marks=pytest.mark.gpu)], indirect=True)
def test_a_real_driver_that_is_closed_under_its_program_agrees(files: Files, daemon: FakeDaemon) -> None:
    close_every_driver_file(files)
    assert settled(daemon)


def close_every_driver_file(files: Files) -> None:
    files.program.ready().alloc(64 * MIB)
    assert files.used() > 64 * MIB
    folder = Path(f"/proc/{files.program.process.pid}/fd")
    for link in sorted(folder.iterdir()):
        if link.readlink().name.startswith("nvidia"):
            assert files.do("close", link.name) == 0
            files.used()


@simulated
def test_threads_that_open_and_close_leave_an_exact_account(files: Files, daemon: FakeDaemon) -> None:
    rounds = 200
    answer = files.program.begin("file", "churn", files.gpu.folder / "nvidiactl", rounds)
    assert files.program.result(answer, timeout_s=60)[0] == "0"
    assert files.used() == 0
    assert daemon.account().frees == daemon.account().allocations == 8 * rounds
    assert settled(daemon)


def test_a_signal_handler_may_close_at_any_moment(start: Any, tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    program = start()
    raw_tree(program, "long")
    answer = program.begin("file", "storm", tmp_path / "control", 3000)
    assert program.result(answer, timeout_s=60)[0] == "0"


# ---- Others that refer to the same open file ----


@simulated
@pytest.mark.parametrize("first", ["original", "duplicate"])
def test_a_duplicate_keeps_the_memory(files: Files, first: str) -> None:
    original = files.opened()
    duplicate = files.do("dup", original)
    order = [original, duplicate] if first == "original" else [duplicate, original]
    files.do("close", order[0])
    assert files.used() == 8 * MIB
    files.do("close", order[1])
    assert files.used() == 0


@simulated
def test_a_client_made_through_a_duplicate_lives_as_long_as_the_file(files: Files) -> None:
    original = files.open()
    duplicate = files.do("dup", original)
    files.fill(duplicate, 8 * MIB)
    files.do("close", duplicate)
    assert files.used() == 8 * MIB
    files.do("close", original)
    assert files.used() == 0


@simulated
def test_a_child_that_has_the_descriptor_keeps_the_memory(files: Files) -> None:
    descriptor = files.opened()
    files.do("hold")
    files.do("close", descriptor)
    assert files.used() == 8 * MIB
    files.ask()  # the child is still there
    assert files.used() == 8 * MIB
    files.do("release")
    files.ask()
    assert files.used() == 0


@simulated
def test_a_child_that_closes_takes_nothing_from_its_parent(files: Files, daemon: FakeDaemon) -> None:
    descriptor = files.opened()
    for verb in ("vfork_close", "clone_close"):
        assert files.do(verb, descriptor) == 0
        assert files.used() == 8 * MIB
    files.program.begin("fork")
    files.program.result("child")
    assert files.do("close", descriptor) == 0
    files.do("use", files.open())
    raw_tree(files.program, "long")
    files.program.begin("quit")
    files.program.result("reaped")
    assert files.used() == 8 * MIB
    assert files.do("close", descriptor) == 0
    assert files.used() == 0
    assert daemon.account().frees == 1


@simulated
def test_a_copy_of_the_process_that_closes_last_gives_back_nothing_itself(files: Files, daemon: FakeDaemon) -> None:
    """It has its parent's tables and its parent's page, and neither is its own."""
    descriptor = files.opened()
    files.do("clone_hold", descriptor)
    files.do("close", descriptor)
    assert files.used() == 8 * MIB
    assert files.do("release") == 0
    assert daemon.account().used == 8 * MIB
    files.ask()
    assert files.used() == 0
    assert settled(daemon)


@simulated
def test_the_child_of_a_fork_watches_its_own(files: Files, daemon: FakeDaemon) -> None:
    files.opened()
    files.program.begin("fork")
    files.program.result("child")
    own = files.opened()
    assert daemon.account(1).used == 8 * MIB
    files.do("close", own)
    assert daemon.account(1).used == 0
    assert settled(daemon, 1)


@simulated
def test_another_process_that_was_given_the_file_keeps_the_memory(files: Files) -> None:
    descriptor = files.opened()
    process = os.pidfd_open(files.program.process.pid)
    libc = ctypes.CDLL(None, use_errno=True)
    ours = libc.syscall(PIDFD_GETFD, process, descriptor, 0)
    assert ours >= 0
    files.do("close", descriptor)
    assert files.used() == 8 * MIB
    os.close(ours)
    os.close(process)
    files.ask()
    assert files.used() == 0


@simulated
def test_a_mapping_keeps_the_memory(files: Files) -> None:
    descriptor = files.opened()
    address = files.do("map", descriptor)
    assert address > 0
    files.do("close", descriptor)
    assert files.used() == 8 * MIB
    files.do("unmap", address)
    files.ask()
    assert files.used() == 0


@simulated
def test_a_file_that_is_tied_to_another_is_not_taken_for_its_clients_life(files: Files, daemon: FakeDaemon) -> None:
    """On a real driver its clients live by the other file: what the simulated one frees stays charged."""
    control, tied = files.open(), files.open()
    assert files.do("register", tied, control) == 0
    files.fill(tied, 8 * MIB)
    files.do("close", tied)
    assert daemon.account().used == 8 * MIB


@simulated
def test_a_number_is_tied_only_as_long_as_its_file(files: Files, daemon: FakeDaemon) -> None:
    control, tied, fresh = files.open(), files.open(), files.open()
    files.do("register", tied, control)
    assert files.program.do("file", "dup2", 4000, tied) == ["-1", EBADF]
    files.fill(tied, 2 * MIB)
    files.do("dup2", fresh, tied)
    assert daemon.account().used == 2 * MIB  # that was tied still
    files.fill(tied, 8 * MIB)
    files.do("close", fresh)
    files.do("close", tied)
    assert daemon.account().used == 2 * MIB


# ---- Ends that nobody here sees ----


@simulated
@pytest.mark.parametrize("verb", ["fclose", "close_by_number", "close_range"])
def test_an_end_that_was_not_seen_is_found_before_anything_is_refused(
    files: Files, daemon: FakeDaemon, verb: str
) -> None:
    descriptor = files.opened(48 * MIB)
    client, device = files.tree(files.open())
    files.do(verb, descriptor, descriptor)
    daemon.limit_bytes = 64 * MIB
    assert raw_alloc(files.program, "long", client, device, MEMORY, 64 * MIB)[1] == "0"
    assert files.used() == 64 * MIB
    assert daemon.account().refusals == 0


@simulated
def test_an_end_that_was_not_seen_is_found_before_a_call_waits(files: Files, daemon: FakeDaemon) -> None:
    files.program.ready()
    descriptor = files.opened(64 * MIB)
    daemon.limit_bytes = daemon.account().used
    files.do("close_by_number", descriptor)
    files.program.alloc(64 * MIB)
    assert files.used() == daemon.limit_bytes
    assert files.program.do("alloc", 2 * MIB)[0] == OUT_OF_MEMORY


@simulated
def test_a_number_that_was_closed_unseen_and_used_again_keeps_its_own_memory(files: Files) -> None:
    descriptor = files.opened(8 * MIB)
    files.do("close_by_number", descriptor)
    assert files.opened(4 * MIB) == descriptor
    assert files.used() == 4 * MIB
    files.do("close", descriptor)
    assert files.used() == 0


# ---- What is no end ----


@simulated
def test_a_close_that_fails_changes_nothing(files: Files, daemon: FakeDaemon) -> None:
    descriptor = files.opened()
    for number in (-1, 4000, 70000):
        assert files.program.do("file", "close", number) == ["-1", EBADF]
        assert files.program.do("file", "dup2", number, descriptor) == ["-1", EBADF]
        assert files.program.do("file", "dup3", descriptor, descriptor)[0] == "-1"
    assert files.used() == 8 * MIB
    assert files.program.do("file", "close", descriptor) == ["0", "0"]
    assert files.program.do("file", "close", descriptor) == ["-1", EBADF]
    assert files.used() == 0
    assert daemon.account().frees == 1


@simulated
def test_a_client_that_was_freed_by_command_is_not_given_back_twice(files: Files, daemon: FakeDaemon) -> None:
    descriptor = files.open()
    clients = [files.fill(descriptor, 2 * MIB) for _ in range(10)]
    for client in clients:
        assert files.program.do("raw", "free", client, client)[:2] == ["0", "0"]
    assert files.used() == 0
    assert locks_of(files.program, descriptor) == 0
    files.fill(descriptor, 8 * MIB)
    assert locks_of(files.program, descriptor) == 1
    files.do("close", descriptor)
    assert files.used() == 0
    assert daemon.account().frees == 11


@simulated
def test_a_file_may_have_any_number_of_clients(files: Files, daemon: FakeDaemon) -> None:
    descriptor = files.open()
    for _ in range(100):
        files.fill(descriptor, 2 * MIB)
    files.do("close", descriptor)
    assert files.used() == 0
    assert settled(daemon)


@simulated
def test_other_files_are_closed_as_ever(files: Files) -> None:
    files.opened()
    other = files.do("open", "/dev/null")
    assert files.program.do("file", "close", other) == ["0", "0"]
    assert files.used() == 8 * MIB


@simulated
def test_an_ordinary_close_costs_next_to_nothing(build: Build, files: Files) -> None:
    """The fastest of many rounds, in ns, so that a busy machine does not decide; a system call is more than that."""
    native = Program(build, None)
    files.opened()
    rounds = [(int(native.do("file", "time", 20000)[0]), files.do("time", 20000)) for _ in range(25)]
    native.end()
    without_ns, with_ns = (min(times) for times in zip(*rounds, strict=True))
    assert with_ns < without_ns + 25


# ---- Without a device ----


def test_the_file_counts_and_not_the_descriptor(start: Any, daemon: FakeDaemon, tmp_path: Path) -> None:
    """Any file will do where the resource manager is inside the process."""
    (tmp_path / "control").touch()
    program = start()
    descriptor = program.do("file", "open", tmp_path / "control")[0]
    program.do("file", "use", descriptor)
    client = raw_alloc(program, "long", "0", "0", CLIENT)[2]
    device = raw_alloc(program, "long", client, client, DEVICE)[2]
    raw_alloc(program, "long", client, device, MEMORY, 2 * MIB)
    duplicate = program.do("file", "dup", descriptor)[0]
    program.do("file", "close", descriptor)
    assert daemon.account().used == 2 * MIB
    program.do("file", "close", duplicate)
    assert daemon.account().used == 0
    assert settled(daemon)
