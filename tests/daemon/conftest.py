# SPDX-License-Identifier: Apache-2.0
"""A daemon for each test; it, its processes and its cgroups end with the test. What its log says is played again."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from convgpu.simulation.check import check
from convgpu.simulation.recording import load_recording

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests
from house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    for peer in built.peers:
        peer.kill()
    built.stop()
    for group in (*built.groups, *{group.parent for group in built.groups}):
        # The kernel takes a moment to let go of a cgroup whose last process has just ended.
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.01)
    if built.log.exists():
        report = check(load_recording(built.log))
        assert report.differences == (), "the engine, given what the log says, decides what the log says"
