# SPDX-License-Identifier: Apache-2.0
"""Two GPUs whose driver instances are not NVML's indices: every byte is counted on the GPU that it lies on."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from convgpu.core.units import GIB, MIB
from convgpu.sources.libraries import find_driver
from convgpu.sources.simgpu import DEVICE_ENVIRONMENT
from convgpu.testing.stage import (
    SIMULATED_STORY,
    Stage,
    StageDaemon,
    make_image,
    output_of,
    remove_containers,
    simulated_gpu,
    wait_until,
)

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.bpf]

STORY_SOURCE = Path(__file__).parents[2] / "tools" / "story" / "story.c"


@pytest.fixture(params=[pytest.param("simulated", marks=pytest.mark.fuse), pytest.param("real", marks=pytest.mark.gpu)])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stage, str]]:
    folder = Path(tempfile.mkdtemp(prefix="convgpu-pair-"))
    folder.chmod(0o755)
    run_dir = Path("/run/convgpu-test-pair")
    shutil.rmtree(run_dir, ignore_errors=True)
    monkeypatch.setenv("CONVGPU_RUN_DIR", str(run_dir))
    if request.param == "simulated":
        simulation = Path("/run/convgpu-test-pair-sim")
        monkeypatch.setenv(DEVICE_ENVIRONMENT, str(simulation / "dev"))
        with simulated_gpu(simulation, gpus=2) as docker:
            yield from _stage(folder, ["--simulated"], docker, SIMULATED_STORY)
    else:
        pynvml.nvmlInit()
        if pynvml.nvmlDeviceGetCount() < 2:
            pytest.skip("needs two GPUs")
        subprocess.run(["nvcc", "-cudart", "static", "-o", str(folder / "story"), str(STORY_SOURCE)], check=True)
        driver = find_driver()
        assert driver is not None
        devices = ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
        docker = [word for name in devices for word in ("--device", f"/dev/{name}")]
        docker += ["-v", f"{driver.parent}:/driver:ro", "-e", "LD_LIBRARY_PATH=/driver"]
        yield from _stage(folder, ["--capacity", "10GiB"], docker, "/stage/story")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(run_dir, ignore_errors=True)


def _stage(folder: Path, options: list[str], docker: list[str], story: str) -> Iterator[tuple[Stage, str]]:
    make_image()
    daemon = StageDaemon(folder, options)
    daemon.start()
    stage = Stage(daemon, folder, docker)
    wait_until("the witness is attached", lambda: stage.snapshot()["witness"]["running"])
    try:
        yield stage, story
    finally:
        remove_containers(tuple(stage.names))
        daemon.stop()


def test_memory_is_charged_to_the_gpu_that_the_program_chose(pair: tuple[Stage, str]) -> None:
    stage, story = pair
    uuids = [gpu["uuid"] for gpu in stage.snapshot()["gpus"]]
    expected = {"pair-zero": ("0", 0), "pair-one": ("1", 1), "pair-swapped": ("1,0", 1), "pair-uuid": (uuids[1], 1)}
    for name, (visible, _) in expected.items():
        container = stage.container(name, "2GiB")
        container._docker_arguments = [*stage.docker, "-e", f"CUDA_VISIBLE_DEVICES={visible}"]
        container.run(story, f"name={name}", "alloc=1GiB", "try=2GiB", "info", "hold=600")
        assert int(container.wait_for("info")["total_bytes"]) == 2 * GIB
        assert container.step("try")["code"] == "cudaErrorMemoryAllocation"
    listing = stage.listing()
    print(output_of("convgpu", "top", "--once"))  # for the record: `pytest -s`
    print(json.dumps(listing, indent=1))
    for name, (_, chosen) in expected.items():
        for device in listing[name]["devices"]:
            assert device["used_bytes"] == device["witness_bytes"] == device["nvml_bytes"], (name, device)
            if device["index"] == chosen:
                assert GIB + 500 * MIB < device["used_bytes"] <= 2 * GIB
            else:
                assert device["used_bytes"] == 0
