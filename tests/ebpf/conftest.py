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

from convgpu.sources.ebpf import BpfWitness
from convgpu.sources.witness import WitnessBalance, WitnessEvent

HERE = Path(__file__).parent
BPF_DIR = HERE.parent.parent / "bpf"
WAIT_S = 10.0

ROOT_CLIENT, DEVICE, MEMORY, SUBDEVICE = 0x41, 0x80, 0x40, 0x2080
NO_MEMORY = 0x51


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

    def tell(self, line: str) -> int:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
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


class Watcher:
    """The witness, with what a test asks of it; losses count from the start of the test, earlier ones are forgotten."""

    def __init__(self, witness: BpfWitness) -> None:
        self.witness = witness
        witness.forget_many({balance.pid for balance in witness.balances()})
        self._before = witness.losses()
        self.events: list[WitnessEvent] = []
        witness.drain()

    def balances(self, pid: int) -> list[WitnessBalance]:
        return [balance for balance in self.witness.balances() if balance.pid == pid]

    def balance(self, pid: int) -> WitnessBalance:
        (only,) = self.balances(pid)
        return only

    def losses(self) -> dict[str, int]:
        now = self.witness.losses()
        return {name: count - self._before[name] for name, count in now.items() if count != self._before[name]}

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
def shared_program(build_dir: Path, cuda_library: Path) -> Path:
    link = (f"-L{build_dir}", "-l:libfixture.so", f"-Wl,-rpath,{build_dir}", "-pthread")
    return compiled(build_dir, "shared_program", "fixture_program.c", *link)


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
def watcher(running_witness: BpfWitness) -> Watcher:
    return Watcher(running_witness)


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Whatever a test started, ended."""
    started: list[Child] = []
    yield started
    for child in started:
        if child.process.poll() is None:
            child.process.kill()
        child.end()


@pytest.fixture
def program(shared_program: Path, children: list[Child]) -> Callable[..., Child]:
    def start(path: Path = shared_program, **options: object) -> Child:
        children.append(Child(str(path), **options))
        return children[-1]

    return start


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
def rm(echo_device: Path, children: list[Child]) -> Callable[..., RmChild]:
    def start(**options: object) -> RmChild:
        child = RmChild(sys.executable, str(HERE / "rm_process.py"), str(echo_device), **options)
        children.append(child)
        return child

    return start
