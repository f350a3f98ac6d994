# SPDX-License-Identifier: Apache-2.0
"""Programs of the CUDA runtime under the wrapper, linked with it statically and dynamically."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu
from wrapper_process import MIB, Build, environment, settled

from convgpu.sources import simgpu

pytestmark = pytest.mark.parametrize(
    "gpu", [pytest.param("simulated", marks=[pytest.mark.fuse, pytest.mark.root])], indirect=True
)
"""The demo's program is built for the simulated GPU here; on a real one PyTorch and nvcc's programs are tested."""


class Story:
    """The demo's program under the wrapper; its lines as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def code_of(self, step: str) -> str:
        """Read on to the next line of a step; what CUDA said there."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if f"step={step}" in line:
                return re.search(r"code=(\w+)", line)[1] if "code=" in line else ""
        raise AssertionError(f"no step {step}: it ended with {self.process.wait()}")


@pytest.fixture(params=["story-static", "story"])
def tell(request: pytest.FixtureRequest, build: Build, daemon: FakeDaemon, gpu: Gpu) -> Iterator[Callable[..., Story]]:
    started: list[Story] = []

    def start_story(*steps: object) -> Story:
        binary = simgpu.library_file(f"bin/{request.param}")
        process = subprocess.Popen(
            [binary, *map(str, steps)],
            env=environment(build, daemon.path, **gpu.settings),
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(Story(process))
        return started[-1]

    yield start_story
    for story in started:
        story.process.kill()
        story.process.communicate()


def test_used_is_the_device_s_figure(tell: Callable[..., Story], gpu: Gpu, daemon: FakeDaemon, tmp_path: Path) -> None:
    story = tell("alloc=256MiB", "alloc=1025KiB", "alloc=64KiB", f"wait-file={tmp_path / 'go'}", "free", "hold=60")
    daemon.until(lambda: len(daemon.pages) == 1 and daemon.account().used >= 512 * MIB + 256 * MIB + 4 * MIB)
    assert daemon.account().used == gpu.held_by(story.process.pid) == 772 * MIB
    (tmp_path / "go").touch()
    assert story.code_of("free") is not None
    daemon.until(lambda: daemon.account().used == gpu.held_by(story.process.pid) == 512 * MIB)
    assert settled(daemon)


def test_beyond_the_limit_is_the_runtime_s_own_error_and_the_program_goes_on(
    tell: Callable[..., Story], daemon: FakeDaemon
) -> None:
    daemon.limit_bytes = 1024 * MIB
    story = tell("try=600MiB", "try=512MiB", "hold=60")
    assert story.code_of("try") == "cudaErrorMemoryAllocation"
    assert story.code_of("try") == "cudaSuccess"
    assert daemon.account().used == daemon.limit_bytes


def test_what_does_not_fit_yet_waits(tell: Callable[..., Story], gpu: Gpu, daemon: FakeDaemon) -> None:
    daemon.others_bytes = daemon.capacity_bytes - 600 * MIB
    story = tell("try=256MiB", "hold=60")
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.waiting()[0].size_bytes == 256 * MIB
    daemon.release_others(256 * MIB)
    assert story.code_of("try") == "cudaSuccess"
    assert daemon.account().used == gpu.held_by(story.process.pid) == 768 * MIB
