# SPDX-License-Identifier: Apache-2.0
"""A real witness in the kernel, and processes that do what a test says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convgpu.sources.bcc import load_bcc
from convgpu.sources.bpf_table import BpfTable, Row
from convgpu.sources.ebpf import BpfWitness
from convgpu.sources.witness import WitnessBalance, WitnessEvent

HERE = Path(__file__).parent
BPF_DIR = HERE.parent.parent / "bpf"
WAIT_S = 10.0

ROOT_CLIENT, DEVICE, MEMORY, SUBDEVICE = 0x41, 0x80, 0x40, 0x2080
NO_MEMORY = 0x51
API_LOSSES = ("calls_full", "live_full", "unknown_free", "missed_free")


def lacking(reason: str) -> None:
    """Skip, or fail where CI demands that privileged tests run."""
    if os.environ.get("CONVGPU_REQUIRE_PRIVILEGED") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        time.sleep(0.01)


def compiled(folder: Path, output: str, *arguments: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        lacking("no C compiler")
    target = folder / output
    command = [compiler, "-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", *arguments, "-o", str(target)]
    subprocess.run(command, check=True, cwd=HERE)
    return target


class Child:
    """A process that answers each line of its input with a number."""

    def __init__(self, *command: str, **options: object) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        self.pid = self.process.pid

    def send(self, line: str) -> None:
        """For a line that has no answer."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def tell(self, line: str) -> int:
        self.send(line)
        answer = self.process.stdout.readline()
        assert answer, f"the process died of: {line}"
        return int(answer)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(WAIT_S)
        self.process.stdout.close()


class RmChild(Child):
    """A process at the driver boundary; the words are the driver's."""

    def call(self, op: str, **values: object) -> int:
        return self.tell(json.dumps({"op": op, **values}))

    def client(self, number: int, **options: object) -> None:
        self.call("alloc", client=0, parent=0, object=number, parameters="", **{"class": ROOT_CLIENT}, **options)

    def device(self, client: int, handle: int, instance: int, **options: object) -> None:
        parameters = struct.pack("<I52x", instance).hex()
        self.call(
            "alloc", client=client, parent=client, object=handle, parameters=parameters, **{"class": DEVICE}, **options
        )

    def memory(
        self, client: int, parent: int, handle: int, size_bytes: int, *, flags_8: int = 0, **options: object
    ) -> None:
        parameters = memory_parameters(size_bytes, flags_8)
        self.call(
            "alloc", client=client, parent=parent, object=handle, parameters=parameters, **{"class": MEMORY}, **options
        )

    def free(self, client: int, handle: int, **options: object) -> None:
        self.call("free", client=client, object=handle, **options)


def memory_parameters(size_bytes: int, flags: int = 0) -> str:
    """NV_MEMORY_ALLOCATION_PARAMS, 128 bytes: flags at 8, size at 64."""
    return struct.pack("<8xI52xQ56x", flags, size_bytes).hex()


def in_flight(thread: Row) -> int:
    """How many calls a thread is inside of, of an entry of the map `threads`: field `api` of struct api_call is set."""
    api_at = 6
    return sum(bool(call[api_at]) for call in (thread.driver, thread.runtime))


class Watcher:
    """A witness, with what a test asks of it.

    The witness sees the whole machine. What a test states is about its own processes; what can only be counted for the
    machine (losses at the boundary) is left out while other processes use the boundary, which in CI none does.
    """

    def __init__(self, witness: BpfWitness, own_pids: set[int]) -> None:
        self.witness = witness
        self._own_pids = own_pids
        self._before = witness.losses()
        self._clients: dict[int, set[int]] = {}
        self.events: list[WitnessEvent] = []
        # As the daemon does: a number whose end was told and not forgotten would not be told again.
        witness.forget_many([event.pid for event in witness.drain() if event.kind == "exit"])

    def _items(self, name: str) -> list[tuple[Row, Row]]:
        """A kernel map as it is."""
        return BpfTable(load_bcc(), self.witness._loaded.bpf, name).items()

    def others(self) -> bool:
        """Whether processes that no test started have used the boundary."""
        return any(client.tgid not in self._own_pids for _, client in self._items("clients"))

    def balances(self, pid: int) -> list[WitnessBalance]:
        return [balance for balance in self.witness.balances() if balance.pid == pid]

    def balance(self, pid: int) -> WitnessBalance:
        (only,) = self.balances(pid)
        return only

    def losses(self) -> dict[str, int]:
        """Losses since the start of the test; those that did not happen are left out."""
        now = self.witness.losses()
        return {name: now[name] - before for name, before in self._before.items() if now[name] != before}

    def expect_losses(self, **expected: int) -> None:
        """These and no others, as far as that can be told; how much of the story is told is another matter."""
        losses = {name: count for name, count in self.losses().items() if name != "suppressed"}
        if not self.others():
            assert losses == expected
            return
        assert {name: count for name, count in losses.items() if name in API_LOSSES and name not in expected} == {}
        for name, count in expected.items():
            assert losses.get(name, 0) == count if name in API_LOSSES else losses.get(name, 0) >= count

    def entries(self, *pids: int) -> dict[str, int]:
        """How many entries of each map are about some processes, and about the clients that they ever had."""
        for number, client in self._items("clients"):
            self._clients.setdefault(client.tgid, set()).add(number.value)
        numbers = set().union(*(self._clients.get(pid, ()) for pid in pids))
        counts = {
            "balances": sum(key.tgid in pids for key, _ in self._items("balances")),
            "catching": sum(key.value >> 32 in pids for key, _ in self._items("catching")),
            "primaries": sum(key.tgid in pids for key, _ in self._items("primaries")),
            "live": sum(key.tgid in pids for key, _ in self._items("live")),
            "processes": sum(key.value in pids for key, _ in self._items("processes")),
            "threads": sum(key.value >> 32 in pids for key, _ in self._items("threads")),
            "calls": sum(in_flight(thread) for key, thread in self._items("threads") if key.value >> 32 in pids),
            "ioctl_calls": sum(key.value >> 32 in pids for key, _ in self._items("ioctl_calls")),
            "clients": sum(key.value in numbers for key, _ in self._items("clients")),
            "parents": sum(key.client in numbers for key, _ in self._items("parents")),
            "objects": sum(key.client in numbers for key, _ in self._items("objects")),
            "totals": sum(key.client in numbers for key, _ in self._items("totals")),
        }
        return {name: count for name, count in counts.items() if count}

    def story(self, pid: int) -> list[WitnessEvent]:
        self.events += self.witness.drain()
        return [event for event in self.events if event.pid == pid]

    def exits(self, pid: int) -> list[WitnessEvent]:
        return [event for event in self.story(pid) if event.kind == "exit"]


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    return wait_until


@pytest.fixture(scope="session")
def bpf_dir() -> Path:
    return BPF_DIR


@pytest.fixture(scope="session")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fixtures")


@pytest.fixture(scope="session")
def header_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.fixture(scope="session")
def cuda_library(build_dir: Path) -> Path:
    return compiled(build_dir, "libfixture.so", "-fPIC", "-shared", "-fvisibility=hidden", "fixture_cuda.c", "-pthread")


@pytest.fixture(scope="session")
def compile_program(build_dir: Path, cuda_library: Path) -> Callable[..., Path]:
    """Compiles the fixture program against the fixture library."""
    link = (f"-L{build_dir}", "-l:libfixture.so", f"-Wl,-rpath,{build_dir}", "-pthread")
    return lambda name, *flags: compiled(build_dir, name, "fixture_program.c", *link, *flags)


@pytest.fixture(scope="session")
def shared_program(compile_program: Callable[..., Path]) -> Path:
    return compile_program("shared_program")


@pytest.fixture(scope="session")
def static_program(build_dir: Path) -> Path:
    return compiled(build_dir, "static_program", "fixture_program.c", "fixture_cuda.c", "-static", "-pthread")


@pytest.fixture(scope="session")
def running_witness(header_cache: Path, cuda_library: Path) -> Iterator[BpfWitness]:
    witness = BpfWitness(BPF_DIR, cache_dir=header_cache)
    witness.start()
    assert witness.attach_library(str(cuda_library), "libcuda")
    assert witness.attach_library(str(cuda_library), "libcudart")
    yield witness
    witness.close()


@pytest.fixture
def small_witness(header_cache: Path, bpf_dir: Path, cuda_library: Path) -> Iterator[Callable[..., BpfWitness]]:
    """Starts witnesses with other sizes."""
    started: list[BpfWitness] = []

    def start(**macros: int) -> BpfWitness:
        witness = BpfWitness(bpf_dir, cache_dir=header_cache, macros=macros)
        started.append(witness)
        witness.start()
        for kind in ("libcuda", "libcudart"):
            assert witness.attach_library(str(cuda_library), kind)
        return witness

    yield start
    for witness in started:
        witness.close()


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Whatever a test started, ended."""
    started: list[Child] = []
    yield started
    for child in started:
        if child.process.poll() is None:
            child.process.kill()
        child.end()


@pytest.fixture(scope="session")
def own_pids() -> set[int]:
    """The processes that tests started."""
    return set()


@pytest.fixture
def watcher(running_witness: BpfWitness, own_pids: set[int]) -> Watcher:
    """The session's witness, attached to the fixture library; what earlier tests left is forgotten."""
    running_witness.forget_many({balance.pid for balance in running_witness.balances()})
    return Watcher(running_witness, own_pids)


@pytest.fixture
def watch(own_pids: set[int]) -> Callable[[BpfWitness], Watcher]:
    """Makes a watcher of another witness."""
    return lambda witness: Watcher(witness, own_pids)


@pytest.fixture
def make_child(children: list[Child], own_pids: set[int]) -> Callable[..., Child]:
    def start(*command: str, **options: object) -> Child:
        child = Child(*command, **options)
        children.append(child)
        own_pids.add(child.pid)
        return child

    return start


@pytest.fixture
def program(shared_program: Path, make_child: Callable[..., Child]) -> Callable[..., Child]:
    return lambda path=shared_program, **options: make_child(str(path), **options)


@pytest.fixture(scope="session")
def echo_device(build_dir: Path) -> Iterator[Path]:
    """A folder with a file `accept` whose ioctls succeed and a file `refuse` whose ioctls fail."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if flags.returncode != 0:
        lacking("no libfuse3-dev")
    server = compiled(build_dir, "echo_device", "echo_device.c", *flags.stdout.split())
    folder = build_dir / "echo"
    folder.mkdir()
    process = subprocess.Popen([str(server), "-f", str(folder)])
    try:
        wait_until(lambda: (folder / "accept").exists() or process.poll() is not None, "mounting the echo device")
        assert process.poll() is None, "the echo device does not mount"
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        process.terminate()
        process.wait(WAIT_S)


@pytest.fixture
def rm(echo_device: Path, children: list[Child], own_pids: set[int]) -> Callable[..., RmChild]:
    def start(**options: object) -> RmChild:
        child = RmChild(sys.executable, str(HERE / "rm_process.py"), str(echo_device), **options)
        children.append(child)
        own_pids.add(child.pid)
        return child

    return start
