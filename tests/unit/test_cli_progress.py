# SPDX-License-Identifier: Apache-2.0
"""The progress bar: nothing for what is quick or for a file, something after a second whatever is going on."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import convgpu.cli.progress
from convgpu.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """What a terminal shows; a second is a hundredth of one."""
    terminal = Terminal()
    monkeypatch.setattr(convgpu.cli.progress, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setattr(convgpu.cli.progress, "_PATIENCE_S", 0.01)
    return terminal


def until(shown, word):
    deadline_s = time.monotonic() + 5
    while word not in shown.getvalue():
        assert time.monotonic() < deadline_s, shown.getvalue()
        time.sleep(0.002)


def test_a_single_part_that_takes_long_is_shown_with_its_name(shown):
    with Progress("Checking", 4) as progress:
        progress.reach(1, "eBPF programs")
        until(shown, "eBPF programs")
        assert "Checking" in shown.getvalue()
        assert "25%" in shown.getvalue()


def test_every_step_is_seen_from_then_on(shown):
    with Progress("Simulating", 2) as progress:
        until(shown, "0%")
        progress.step()
        until(shown, "50%")
        progress.step()
        until(shown, "100%")


def test_what_is_quick_shows_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(convgpu.cli.progress, "sys", SimpleNamespace(stderr=terminal))
    with Progress("Simulating", 2) as progress:
        progress.step()
        progress.step()
    assert terminal.getvalue() == ""


def test_a_file_gets_nothing(shown, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(convgpu.cli.progress, "sys", SimpleNamespace(stderr=file))
    with Progress("Simulating", 2) as progress:
        progress.step()
        time.sleep(0.05)
        progress.step()
    assert file.getvalue() == ""


def test_it_goes_on_while_somebody_else_has_taken_stderr():
    """As the compiler of the witness's programs does, to keep what it says."""
    code = (
        "import os, time\n"
        "import convgpu.cli.progress as progress\n"
        "progress._PATIENCE_S = 0.05\n"
        "with progress.Progress('Checking', 2) as bar:\n"
        "    kept = os.dup(2)\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n"
        "    bar.reach(1, 'programs')\n"
        "    time.sleep(0.5)\n"
        "    os.dup2(kept, 2)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the terminal ends with its last user
        while part := os.read(ours, 1024):
            said += part
    os.close(ours)
    assert process.wait(10) == 0
    assert b"Checking" in said
    assert b"50%  programs" in said


def test_it_ends_with_what_it_shows_also_where_the_work_fails(shown):
    def work():
        with Progress("Checking", 2):
            until(shown, "Checking")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    said = shown.getvalue()
    time.sleep(0.05)
    assert shown.getvalue() == said
