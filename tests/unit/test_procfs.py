# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process."""

from __future__ import annotations

import mmap
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from convgpu.sources import procfs


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_start_time(tmp_path: Path) -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (a ) b (c) S {fields}\n")
    # Field 3 is the state; fields 4 to 52 hold their own numbers, so field 22 reads 22.
    assert procfs.start_ticks(7, tmp_path) == 22


def test_the_descriptor_becomes_readable_when_the_process_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    descriptor, key = procfs.open_process(child.pid)
    assert (key.pid, key.start_ticks) == (child.pid, procfs.start_ticks(child.pid))
    assert select.select([descriptor], [], [], 0)[0] == []
    child.communicate(b"\n")
    assert select.select([descriptor], [], [], 5)[0] == [descriptor]
    os.close(descriptor)


def test_a_process_that_ended_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(procfs.ProcessGoneError):
        procfs.open_process(child.pid)
    assert procfs.command_name(child.pid) is None
    assert procfs.user_id(child.pid) is None


def test_a_mapped_file_is_found_until_it_is_unmapped(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(bytes(4096))
    status = path.stat()
    with path.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 4096)
        # tmp_path may lie on a file system whose maps entry shows another device number (overlayfs does).
        here = procfs.maps_file(os.getpid(), status.st_dev, status.st_ino)
        mapped.close()
    assert here
    assert not procfs.maps_file(os.getpid(), status.st_dev, status.st_ino)


def test_a_pid_is_told_as_the_innermost_namespace_has_it(tmp_path: Path) -> None:
    (tmp_path / "4101").mkdir()
    (tmp_path / "4101" / "status").write_text("Name:\tstory\nNSpid:\t4101\t97\t7\nUid:\t0\n")
    assert procfs.namespace_pid(4101, tmp_path) == 7
    with pytest.raises(procfs.ProcessGoneError):
        procfs.namespace_pid(4102, tmp_path)
