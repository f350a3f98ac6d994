# SPDX-License-Identifier: Apache-2.0
"""A daemon for each test; it, its processes and its cgroups end with the test.

Of every test's log it is then held that the chain holds, that each record is valid by the published schema, that the
analysis follows what is held as the engine does, and that the engine, given what the log says, decides what it says.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from convgpu.analysis.holdings import Holdings
from convgpu.analysis.selection import read_records
from convgpu.audit.files import log_files, read_lines
from convgpu.audit.verify import verify_files
from convgpu.simulation.check import check
from convgpu.simulation.recording import read_recording

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests
from house import House

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "audit-schema.json"
RECORD = Draft202012Validator(json.loads(SCHEMA.read_text()))


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
        files = log_files(built.log)
        assert verify_files(files).ok, "the log holds together"
        for line in read_lines(files):
            problems = [error.message for error in RECORD.iter_errors(json.loads(line))]
            assert problems == [], line
        following = Holdings()
        for record in read_records(files):
            if record.get("type", "").startswith("decision.") and record.get("used_bytes") is not None:
                held = following.at((record["container"]["id"], record["gpu"]["id"]))
                assert held == record["used_bytes"], "what the analysis follows is what the engine saw"
            following.take(record)
        report = check(read_recording(read_lines(files), str(built.log)))
        assert report.differences == (), "the engine, given what the log says, decides what the log says"
