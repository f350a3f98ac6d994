# SPDX-License-Identifier: Apache-2.0
"""A daemon for each test; it, its processes and its cgroups end with the test."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
