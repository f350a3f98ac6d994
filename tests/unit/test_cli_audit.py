# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit verify`, without a daemon."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from convgpu.audit.writer import AuditWriter
from convgpu.cli.main import main


@pytest.fixture
def log(tmp_path):
    """A log of three records, closed; returns its path and its head's hash."""
    path = tmp_path / "audit.jsonl"
    with AuditWriter(path) as writer:
        for number in range(3):
            writer.write("daemon.stop", msg=f"record {number}")
        head = writer.head.hash
    return path, head


def verify(*arguments):
    return CliRunner().invoke(main, ["audit", "verify", *map(str, arguments)], prog_name="convgpu")


def test_a_whole_log_verifies_and_its_head_is_said(log):
    path, head = log
    done = verify(path)
    assert done.exit_code == 0
    assert f"{path}: 3 records, 1 to 3, head {head}" in done.stdout
    assert verify(path, "--expect-head", head).exit_code == 0


def test_a_changed_record_is_found_and_its_line_named(log):
    path, _ = log
    path.write_bytes(path.read_bytes().replace(b"record 1", b"record X"))
    done = verify(path)
    assert done.exit_code == 7
    assert "line 2:" in done.stderr
    assert "does not verify" in done.stderr
    assert "verifies" not in done.stdout


def test_a_removed_end_is_found_with_a_head_kept_elsewhere(log):
    path, head = log
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert verify(path).exit_code == 0
    assert verify(path, "--expect-head", head).exit_code == 7


def test_a_torn_last_line_is_said_and_is_no_tampering(log):
    path, _ = log
    path.write_bytes(path.read_bytes() + b'{"v":1,"se')
    done = verify(path)
    assert done.exit_code == 0
    assert "cut short (10 bytes)" in done.stdout


def test_no_log_is_an_error_with_its_name(tmp_path):
    done = verify(tmp_path / "none.jsonl")
    assert done.exit_code == 7
    assert "none.jsonl" in done.stderr
