# SPDX-License-Identifier: Apache-2.0
"""The wrapper, built once; for each test a daemon, a device, and programs that end with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu, real, simulated
from wrapper_process import Build, Program

from convgpu.core.units import GIB
from convgpu.sources import simgpu


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("wrapper"))


@pytest.fixture
def daemon(build: Build, tmp_path: Path) -> Iterator[FakeDaemon]:
    running = FakeDaemon(build.abi, tmp_path / "client.sock").start()
    yield running
    running.die()


@pytest.fixture
def start(build: Build, daemon: FakeDaemon) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start_program(binary: str | Path = "program", **settings: object) -> Program:
        programs.append(Program(build, daemon.path, binary, **settings))
        return programs[-1]

    yield start_program
    for program in programs:
        program.process.kill()
        program.process.communicate()


@pytest.fixture(scope="session")
def _simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Gpu]]:
    run_dir = tmp_path_factory.mktemp("sim")
    yield lambda: simulated(run_dir)
    if (run_dir / "dev").exists():
        simgpu.down(run_dir)


@pytest.fixture(
    params=[
        pytest.param("simulated", marks=[pytest.mark.fuse, pytest.mark.root]),
        pytest.param("real", marks=pytest.mark.gpu),
    ]
)
def gpu(request: pytest.FixtureRequest, _simulated: Callable[[], Gpu], daemon: FakeDaemon) -> Gpu:
    """A device, and the daemon set to it: 6 GiB for the container, 8 in all."""
    found = _simulated() if request.param == "simulated" else real()
    daemon.devices = (found.device,)
    daemon.limit_bytes = 6 * GIB
    daemon.capacity_bytes = 8 * GIB
    return found


@pytest.fixture
def context_bytes(gpu: Gpu, build: Build, daemon: FakeDaemon) -> int:
    """What a context costs on this device, measured by a process that has ended."""
    Program(build, daemon.path, **gpu.settings).ready().end()
    cost = daemon.account(0).context
    daemon.pages.clear()
    assert cost > 0
    return cost
