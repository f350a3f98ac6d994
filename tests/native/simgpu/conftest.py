# SPDX-License-Identifier: Apache-2.0
"""Simulated GPUs in folders of their own, so that nothing collides with one that is in use, and programs on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helper beside the tests
from rm_client import RmClient

from convgpu.core.units import GIB
from convgpu.sources import simgpu

HERE = Path(__file__).parent
WAIT_S = 10.0


def wait_until(condition: Callable[[], object], what: str, within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.005)


@dataclass
class Sim:
    """A running simulated GPU and what a test does with it."""

    run_dir: Path
    clients: list[RmClient] = field(default_factory=list)
    programs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def device_dir(self) -> Path:
        return self.run_dir / "dev"

    @property
    def environment(self) -> dict[str, str]:
        folder = str(simgpu.library_dir())
        inherited = {
            name: text for name, text in os.environ.items() if name not in {"CUDA_VISIBLE_DEVICES", "LD_PRELOAD"}
        }
        return {**inherited, simgpu.DEVICE_ENVIRONMENT: str(self.device_dir), "LD_LIBRARY_PATH": folder}

    def status(self) -> simgpu.SimStatus:
        return simgpu.status(self.run_dir)

    def used(self, index: int = 0) -> int:
        return self.status().gpus[index].used_bytes

    def held_by(self, pid: int, index: int = 0) -> int:
        return self.status().gpus[index].process_bytes.get(pid, 0)

    def client(self, file: str = "nvidiactl") -> RmClient:
        self.clients.append(RmClient(self.device_dir, file))
        return self.clients[-1]

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        return subprocess.run(
            words, env={**self.environment, **environment}, capture_output=True, text=True, check=False, timeout=60
        )

    def output(self, *command: object, **environment: str) -> list[str]:
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout.splitlines()

    def start(
        self, *command: object, output: Path | None = None, stdin: int | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a program that ends with the test; its lines go to a pipe, or to a file where they are many."""
        words = [str(word) for word in command]
        with contextlib.ExitStack() as stack:
            stdout = stack.enter_context(output.open("w")) if output else subprocess.PIPE
            program = subprocess.Popen(
                words, env={**self.environment, **environment}, stdin=stdin, stdout=stdout, text=True
            )
        self.programs.append(program)
        return program

    def end_all(self) -> None:
        for program in self.programs:
            program.kill()
            program.communicate()
        for client in self.clients:
            client.close()
        self.programs.clear()
        self.clients.clear()

    def empty(self) -> bool:
        return all(gpu.used_bytes == 0 and not gpu.process_bytes for gpu in self.status().gpus)


@pytest.fixture(scope="session")
def story() -> Path:
    return simgpu.library_file("bin/story")


@pytest.fixture(scope="session")
def _sims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Sim]]:
    started: dict[int, Sim] = {}

    def get(gpus: int) -> Sim:
        if gpus not in started:
            run_dir = tmp_path_factory.mktemp(f"sim{gpus}")
            simgpu.up(run_dir, memory_bytes=10 * GIB, context_bytes=GIB // 2, gpus=gpus)
            started[gpus] = Sim(run_dir)
        return started[gpus]

    yield get
    for sim in started.values():
        simgpu.down(sim.run_dir)


def _clean(sim: Sim) -> Iterator[Sim]:
    """Hand it out empty, and want it back empty: whatever a test leaves behind is a leak of the server."""
    assert sim.empty()
    try:
        yield sim
    finally:
        sim.end_all()
    wait_until(sim.empty, f"everything is free again: {sim.status()}")


@pytest.fixture
def sim(_sims: Callable[[int], Sim]) -> Iterator[Sim]:
    """One GPU of 10 GiB, 512 MiB a context."""
    yield from _clean(_sims(1))


@pytest.fixture
def two_gpus(_sims: Callable[[int], Sim]) -> Iterator[Sim]:
    yield from _clean(_sims(2))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile a C file of this folder against the simulated libraries, once."""
    folder = tmp_path_factory.mktemp("built")

    def build(source: str, name: str, *arguments: str) -> Path:
        target = folder / name
        if not target.exists():
            compiler = shutil.which("cc") or "gcc"
            include = simgpu.library_dir() / "include"
            flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
            subprocess.run([compiler, *flags, str(HERE / source), "-o", str(target), *arguments], check=True)
        return target

    return build
