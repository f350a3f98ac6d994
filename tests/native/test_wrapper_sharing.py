# SPDX-License-Identifier: Apache-2.0
"""Memory that processes share: charged to its owner, once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu
from wrapper_process import SOURCES, Build, environment, settled

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
