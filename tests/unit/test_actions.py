# SPDX-License-Identifier: Apache-2.0
"""A notification gets what it needs, for a bounded time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from convgpu.daemon.actions import run_notification


def run(*command: str, text: bytes = b"{}", limit_s: float = 10.0) -> str | None:
    return asyncio.run(run_notification(command, text, limit_s))


def test_status_0_is_success_and_others_are_told() -> None:
    assert run("/bin/true") is None
    assert run("/bin/false") == "it ended with status 1"


def test_no_shell_comes_between(tmp_path: Path) -> None:
    assert run("/usr/bin/touch", str(tmp_path / "a; b $(c)")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a; b $(c)"]


def test_a_command_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    began = time.monotonic()
    script = f"(sleep 1; touch {mark}) & wait"
    assert run("/bin/sh", "-c", script, limit_s=0.2) == "it did not end within 0 s"
    assert time.monotonic() - began < 1
    time.sleep(1.2)
    assert not mark.exists()


def test_one_that_reads_nothing_does_not_hold_anybody_up() -> None:
    assert run("/bin/true", text=b"x" * 1_000_0) is None
