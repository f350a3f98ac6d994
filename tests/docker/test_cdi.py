# SPDX-License-Identifier: Apache-2.0
"""The CDI device in Podman, which reads /etc/cdi: the library is preloaded, and the hook refuses bad values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.podman import Podman
from convgpu.testing.stage import (
    SIMULATED_STORY,
    SIMULATION,
    Stage,
    StageDaemon,
    StageError,
    output_of,
    simulated_gpu,
    wait_until,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("podman") is None, reason="no podman"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc"),
]

SPECIFICATION = Path("/etc/cdi/convgpu-test.json")
CONTEXT_BYTES = 512 * MIB
GUARD = ("--device", "convgpu.dev/guard=default")


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Podman]:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONVGPU_CONFIG", str(config))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    try:
        own = Podman()
    except StageError as error:
        pytest.skip(str(error))
    output_of("convgpu", "cdi", "generate", "--output", str(SPECIFICATION))
    yield own
    SPECIFICATION.unlink()
    own.remove()


def run(podman: Podman, *options: str) -> subprocess.CompletedProcess[str]:
    return podman.run("--rm", *options, program=("/usr/bin/cat", "/etc/ld.so.preload", "/proc/self/maps"))


def test_the_device_preloads_the_library(podman: Podman) -> None:
    done = run(podman, *GUARD, "--annotation", "convgpu.limit=1GiB")
    assert done.returncode == 0, done.stderr
    preload, *maps = done.stdout.splitlines()
    assert preload == "/.convgpu/libconvgpu.so"
    assert any(line.endswith("/.convgpu/libconvgpu.so") and " r-xp " in line for line in maps)


def test_a_bad_annotation_starts_nothing_and_is_named(podman: Podman) -> None:
    done = run(podman, *GUARD, "--annotation", "convgpu.limit=much")
    assert done.returncode != 0
    assert "label convgpu.limit: 'much' is not a size" in done.stderr
    assert done.stdout == ""


def test_an_unknown_device_starts_nothing(podman: Podman) -> None:
    assert run(podman, "--device", "convgpu.dev/guard=other").returncode != 0


@pytest.fixture
def stage(podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A daemon that asks Podman who is who."""
    monkeypatch.setenv("CONVGPU_RUN_DIR", str(tmp_path / "run"))
    with podman.service() as host, simulated_gpu(SIMULATION.with_name(f"{SIMULATION.name}-podman")) as gpu:
        monkeypatch.setenv("DOCKER_HOST", host)
        daemon = StageDaemon(tmp_path, ["--simulated", "--probes", "off"])
        daemon.start()
        yield Stage(daemon, tmp_path, gpu)
        podman("rm", "--all", "--force", "--time", "0")
        daemon.stop()


@pytest.mark.fuse
@pytest.mark.parametrize("how", ["--label", "--annotation"])
def test_the_limit_holds_in_podman(stage: Stage, podman: Podman, tmp_path: Path, how: str) -> None:
    limit = (how, "convgpu.limit=2GiB")
    steps = ("name=x", "alloc=1GiB", "try=1GiB", "info", "hold=600")
    done = podman.run("-d", "--name", "guest", *GUARD, *limit, *stage.docker, program=(SIMULATED_STORY, *steps))
    assert done.returncode == 0, done.stderr
    said = wait_until("it is through", lambda: "info" in (log := podman("logs", "guest").stdout) and log)
    assert "step=try size_bytes=1073741824 code=cudaErrorMemoryAllocation" in said
    assert f"total_bytes={2 * GIB}" in said
    assert stage.device("guest")["used_bytes"] == CONTEXT_BYTES + GIB
    executed = podman("exec", "guest", SIMULATED_STORY, "name=second", "try=512MiB")
    assert "code=cudaErrorMemoryAllocation" in executed.stdout
    stage.daemon.kill()
    stage.daemon.start()
    assert stage.device("guest")["limit_bytes"] == 2 * GIB
    podman("rm", "--force", "--time", "0", "guest")
    wait_until("all is free", lambda: stage.snapshot()["gpus"][0]["assigned_bytes"] == 0)
    state = tmp_path / "state" / "state.json"
    wait_until("nothing is kept of it", lambda: not state.exists() or not json.loads(state.read_text())["containers"])
