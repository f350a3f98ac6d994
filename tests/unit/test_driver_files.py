# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convgpu.sources.driver_files import has_driver_file, running_threads


@pytest.mark.parametrize("name", ["nvidiactl", "nvidia0"])
def test_an_open_file_of_the_driver_is_seen_by_its_name(tmp_path: Path, name: str) -> None:
    assert not has_driver_file(os.getpid())
    with (tmp_path / name).open("w"):
        assert has_driver_file(os.getpid())
    assert not has_driver_file(os.getpid())


def test_a_mapping_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "nvidia0"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 4096)
    # Python keeps a duplicate of the descriptor, which the mapping does not need.
    assert has_driver_file(os.getpid())
    mapped.close()
    assert not has_driver_file(os.getpid())


def test_files_of_other_names_are_not_the_drivers(tmp_path: Path) -> None:
    with (tmp_path / "nvidia-settings").open("w"), (tmp_path / "nvidiactl.txt").open("w"):
        assert not has_driver_file(os.getpid())


def test_a_process_whose_first_thread_has_ended_still_runs(tmp_path: Path) -> None:
    code = (
        "import ctypes, sys, threading, time\n"
        "def stay():\n"
        "    time.sleep(0.2); print('ready', flush=True); sys.stdin.read()\n"
        f"held = open({str(tmp_path / 'nvidiactl')!r}, 'w')\n"
        "threading.Thread(target=stay).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    try:
        assert len(running_threads(started.pid)) == 1
        assert has_driver_file(started.pid)
    finally:
        started.kill()
        assert started.wait() != 0
        started.communicate()
    assert running_threads(started.pid) == ()


def test_a_process_that_waits_for_its_parent_to_take_notice_runs_no_more() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert running_threads(ended.pid) == ()
    assert not has_driver_file(ended.pid)
    ended.wait()
