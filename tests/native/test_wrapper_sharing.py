# SPDX-License-Identifier: Apache-2.0
"""Memory that processes share: charged to its owner, once, and as long as something of the owner's keeps it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu
from wrapper_process import MEMORY, MIB, SOURCES, Build, Program, environment, raw_alloc, raw_tree, settled

from convgpu.core.units import GIB

HEADERS = SOURCES.parents[1] / "tools/simgpu/include"


@pytest.fixture(scope="module")
def ipc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes and 1 GiB, of the simulated GPU's tests; it runs on a real one too."""
    target = tmp_path_factory.mktemp("ipc") / "ipc"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{HEADERS}"]
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, *flags, SOURCES / "simgpu/ipc.c", "-ldl", "-o", target], check=True)
    return target


class Process:
    """One of the two; it does its next step when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def run(build: Build, daemon: FakeDaemon, gpu: Gpu, ipc: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def run_process(*words: str) -> Process:
        process = subprocess.Popen(
            [ipc, *words],
            env=environment(build, daemon.path, **gpu.settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(Process(process))
        return started[-1]

    yield run_process
    for process in started:
        process.end()


def test_memory_of_another_process_is_charged_to_its_owner_alone(
    run: Callable[..., Process], gpu: Gpu, daemon: FakeDaemon
) -> None:
    owner = run("owner")
    assert owner.line() == "export 0 host 1 open-own 201"
    opener = run("opener", owner.line())
    assert opener.line() == "open 0 again 0 same 1 free 1"
    context = daemon.account(1).used
    assert daemon.account(0).used == gpu.held_by(owner.process.pid) == context + GIB
    assert context == gpu.held_by(opener.process.pid) == daemon.account(1).context
    assert opener.go() == "close 0 0 thrice 1"
    assert daemon.account(1).used == gpu.held_by(opener.process.pid) == context
    assert owner.go() == "free 0"
    assert daemon.account(0).used == gpu.held_by(owner.process.pid) == context
    assert settled(daemon, 0)
    assert settled(daemon, 1)


@pytest.mark.parametrize("end", ["free", "killed"])
def test_an_opener_that_outlives_the_owner_has_an_account_that_adds_up(
    run: Callable[..., Process], gpu: Gpu, daemon: FakeDaemon, end: str
) -> None:
    """The driver then charges the opener, whom nobody tells: NVML shows it, and its account does not (measured)."""
    owner = run("owner")
    owner.line()
    opener = run("opener", owner.line())
    opener.line()
    context = daemon.account(1).used
    if end == "free":
        assert owner.go() == "free 0"
        assert daemon.account(0).used == gpu.held_by(owner.process.pid) == context
    else:
        owner.end()
    daemon.until(lambda: gpu.held_by(opener.process.pid) == context + GIB)
    assert daemon.account(1).used == context
    assert opener.go() == "close 0 0 thrice 1"
    assert daemon.account(1).used == gpu.held_by(opener.process.pid) == context
    assert settled(daemon, 1)


# ---- Duplicates and exports of one's own ----


class Shares:
    """A program that shares its memory with itself, over a resource manager that does all it is asked."""

    def __init__(self, program: Program, daemon: FakeDaemon, folder: Path) -> None:
        self.program, self.daemon, self.folder = program, daemon, folder
        self.client, self.device = raw_tree(program, "long")
        self.memory = self.allocate(8 * MIB)

    def allocate(self, size_bytes: int) -> str:
        return raw_alloc(self.program, "long", self.client, self.device, MEMORY, size_bytes)[2]

    def raw(self, *words: object) -> list[str]:
        answer = self.program.do("raw", *words)
        assert answer[0] == "0"
        return answer

    def free(self, handle: str) -> None:
        assert self.raw("free", self.client, handle)[1] == "0"

    def file(self, verb: str, *arguments: object) -> str:
        return self.program.do("file", verb, *arguments)[0]

    def open(self, name: str = "shared") -> str:
        """A file to export to; any will do where the resource manager is inside the process."""
        (self.folder / name).touch()
        return self.file("open", self.folder / name)

    @property
    def used(self) -> int:
        account = self.daemon.account()
        assert account.balanced
        return account.used


@pytest.fixture
def shares(start: Callable[..., Program], daemon: FakeDaemon, tmp_path: Path) -> Shares:
    return Shares(start(), daemon, tmp_path)


@pytest.mark.parametrize("first", ["original", "duplicate"])
def test_a_duplicate_of_one_s_own_is_charged_once_and_until_both_are_free(
    shares: Shares, daemon: FakeDaemon, first: str
) -> None:
    other_client, other_device = raw_tree(shares.program, "long")
    duplicate = shares.raw("dup", other_client, other_device, shares.client, shares.memory)[2]
    assert shares.used == 8 * MIB
    frees = [(shares.client, shares.memory), (other_client, other_client)]  # the second with its client
    assert duplicate != "0x0"
    for number, free in enumerate(frees if first == "original" else reversed(frees)):
        assert shares.raw("free", *free)[1] == "0"
        assert shares.used == (8 * MIB if number == 0 else 0)
    assert daemon.account().frees == daemon.account().allocations == 1


@pytest.mark.parametrize("first", ["memory", "file"])
@pytest.mark.parametrize("export", ["export {0} {1} 0 {2}", "export_one {0} {1} {2}"])
def test_a_file_that_memory_was_exported_to_keeps_it(shares: Shares, first: str, export: str) -> None:
    descriptor = shares.open()
    shares.raw(export.format(shares.client, descriptor, shares.memory))
    ends = [lambda: shares.free(shares.memory), lambda: shares.file("close", descriptor)]
    for number, end in enumerate(ends if first == "memory" else reversed(ends)):
        end()
        assert shares.used == (8 * MIB if number == 0 else 0)


def test_a_file_keeps_what_is_in_its_places(shares: Shares) -> None:
    descriptor, other = shares.open(), shares.open("other")
    second = shares.allocate(16 * MIB)
    shares.raw("export", shares.client, descriptor, 3, shares.memory)
    shares.raw("export", shares.client, descriptor, 4, second)
    shares.raw("export", shares.client, other, 3, second)
    shares.free(shares.memory)
    shares.free(second)
    assert shares.used == 24 * MIB
    shares.raw("export", shares.client, descriptor, 3, "0")  # empties the place
    assert shares.used == 16 * MIB
    third = shares.allocate(32 * MIB)
    shares.raw("export", shares.client, descriptor, 4, third)  # in the place of the second
    assert shares.used == 48 * MIB
    shares.file("close", other)
    assert shares.used == 32 * MIB
    shares.free(third)
    shares.file("close", descriptor)
    assert shares.used == 0


def test_a_client_that_ends_leaves_what_it_exported(shares: Shares) -> None:
    descriptor = shares.open()
    shares.raw("export", shares.client, descriptor, 0, shares.memory)
    shares.free(shares.client)
    assert shares.used == 8 * MIB
    shares.file("close", descriptor)
    assert shares.used == 0


@pytest.mark.parametrize("imports", ["import {0} {1} {2} 0 {3}", "import_one {0} {1} {2} {3}"])
def test_what_is_imported_from_one_s_own_file_is_the_same_memory(shares: Shares, imports: str) -> None:
    descriptor = shares.open()
    shares.raw("export", shares.client, descriptor, 0, shares.memory)
    shares.raw(imports.format(shares.client, shares.device, descriptor, "77"))
    assert shares.used == 8 * MIB
    shares.free(shares.memory)
    shares.file("close", descriptor)
    assert shares.used == 8 * MIB
    shares.free("77")
    assert shares.used == 0


def test_what_is_imported_from_another_s_file_is_charged_to_nobody_here(shares: Shares) -> None:
    shares.raw("import", shares.client, shares.device, shares.open(), 0, "77")
    assert shares.used == 8 * MIB
    shares.free("77")
    assert shares.used == 8 * MIB


def test_another_process_that_was_sent_the_file_keeps_the_memory(shares: Shares, daemon: FakeDaemon) -> None:
    """As an exporter does: it sends the descriptor, closes its own, and frees when the work is done."""
    descriptor = shares.open()
    shares.raw("export", shares.client, descriptor, 0, shares.memory)
    shares.file("hold")
    shares.file("close", descriptor)
    shares.free(shares.memory)
    assert shares.used == 8 * MIB
    daemon.limit_bytes = 8 * MIB
    shares.file("release")
    shares.allocate(8 * MIB)  # whatever asks for memory finds out
    assert shares.used == 8 * MIB


def test_memory_that_another_process_has_let_go_of_is_given_back_when_it_is_freed(shares: Shares) -> None:
    descriptor = shares.open()
    shares.raw("export", shares.client, descriptor, 0, shares.memory)
    shares.file("hold")
    shares.file("close", descriptor)
    shares.file("release")
    shares.free(shares.memory)
    assert shares.used == 0


@pytest.mark.parametrize("gpu", [pytest.param("real", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("imports", [False, True])
def test_exported_memory_of_a_real_device_stays_charged_while_its_file_is_open(
    start: Callable[..., Program], gpu: Gpu, daemon: FakeDaemon, imports: bool
) -> None:
    program = start(**gpu.settings).ready()
    before = daemon.account().used
    posix_descriptor = 1
    properties = f"{{{1 | posix_descriptor << 32},1,0,0}}"  # CUmemAllocationProp: pinned, on device 0
    memory = program.do("call", "cuMemCreate", "@", 64 * MIB, properties, 0)[1]
    code, descriptor = program.do("call", "cuMemExportToShareableHandle", "@", memory, posix_descriptor, 0)
    assert code == "0"
    if imports:
        code, again = program.do("call", "cuMemImportFromShareableHandle", "@", descriptor, posix_descriptor)
        assert code == "0"
    assert daemon.account().used == gpu.held_by(program.process.pid) == before + 64 * MIB
    assert program.do("call", "cuMemRelease", memory)[0] == "0"
    assert daemon.account().used == before + 64 * MIB  # NVML shows it with no process
    assert program.do("file", "close", descriptor) == ["0", "0"]
    if imports:
        assert daemon.account().used == gpu.held_by(program.process.pid) == before + 64 * MIB
        assert program.do("call", "cuMemRelease", again)[0] == "0"
    assert daemon.account().used == gpu.held_by(program.process.pid) == before
    assert settled(daemon)
