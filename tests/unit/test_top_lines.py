# SPDX-License-Identifier: Apache-2.0
"""`convgpu top --jsonl` as a process of its own: a line at every interval, whatever the daemon does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from convgpu.core.status import Snapshot
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        yield fake


def test_a_line_at_every_interval_through_a_restart_of_the_daemon_until_ctrl_c(server, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "convgpu.cli.main", "top", "--jsonl", "--interval", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "CONVGPU_RUN_DIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    lines = [process.stdout.readline() for _ in range(3)]
    server.stop()
    assert process.stderr.readline().startswith(b"... no ConvGPU daemon answers")
    server.start()
    lines += [process.stdout.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert [msgspec.json.decode(line, type=Snapshot) for line in lines] == 5 * [server.snapshot]
