# SPDX-License-Identifier: Apache-2.0
"""One simulated GPU of 10 GiB and one daemon for the tests with Docker; each test has containers of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convgpu.testing.stage import (
    Stage,
    StageDaemon,
    make_image,
    remove_containers,
    simulated_gpu,
    wait_until,
)

RUN_DIR = Path(os.environ.get("CONVGPU_TEST_RUN_DIR") or "/run/convgpu-test")
"""Another one, another CONVGPU_SIM_DIR and a DOCKER_HOST let two runs of these tests share a machine."""
PROBES = os.environ.get("CONVGPU_TEST_PROBES") or "all"
"""`off` on a machine that must not load BPF programs; what needs the witness fails then."""


@pytest.fixture(scope="session")
def _stage() -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="convgpu-test-"))
    folder.chmod(0o755)
    run_dir = RUN_DIR
    shutil.rmtree(run_dir, ignore_errors=True)
    os.environ["CONVGPU_RUN_DIR"] = str(run_dir)
    # The commands of the installed package that is under test, wherever the shell finds others.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    make_image()
    with simulated_gpu() as docker:
        daemon = StageDaemon(folder, ["--simulated", "--probes", PROBES])
        daemon.start()
        stage = Stage(daemon, folder, docker)
        wait_until("the witness is attached", lambda: PROBES == "off" or stage.snapshot()["witness"]["running"])
        try:
            yield stage
        finally:
            remove_containers(tuple(stage.names))
            daemon.stop()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(run_dir, ignore_errors=True)


@pytest.fixture
def stage(_stage: Stage) -> Iterator[Stage]:
    """The stage, empty before and after each test."""
    yield _stage
    remove_containers(tuple(_stage.names))
    _stage.names.clear()
    for left in _stage.folder.iterdir():
        if left.is_file() and left.name != "daemon.stderr":
            left.unlink()
    wait_until("everything is free again", lambda: _stage.snapshot()["gpus"][0]["assigned_bytes"] == 0)


@pytest.fixture
def command() -> Any:
    """Run a command that may fail, and return what it said."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    return run
