# SPDX-License-Identifier: Apache-2.0
"""Whether a process has the NVIDIA driver open: without, it holds no GPU memory, whatever was counted for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from convgpu.sources.procfs import PROC

_DRIVER_FILE: Final = re.compile(r"/nvidia(ctl|\d+)$")
_OVER: Final = (b"Z", b"X")
"""States in /proc/PID/stat of a thread that runs no more: zombie, dead."""


def running_threads(pid: int, proc: Path = PROC) -> tuple[Path, ...]:
    """Return the /proc folders of a process's threads that still run; empty when it has ended.

    The first thread may have ended before the others; its folder then shows no open files.
    """
    return tuple(_running(proc / str(pid)))


def _running(process: Path) -> Iterator[Path]:
    try:
        for task in (process / "task").iterdir():
            try:
                state = (task / "stat").read_bytes().rpartition(b")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in _OVER:
                yield task
    except (FileNotFoundError, ProcessLookupError):
        return


def has_driver_file(pid: int, proc: Path = PROC) -> bool:
    """Tell whether a process has a file of the driver open or mapped, by its name.

    By name, because to look at the file itself would ask whatever file system the container mounted there.
    """
    for task in running_threads(pid, proc):
        if any(_DRIVER_FILE.search(target) for target in (*_open_files(task), *_mapped_files(task))):
            return True
    return False


def _open_files(task: Path) -> Iterator[str]:
    try:
        for entry in (task / "fd").iterdir():
            try:
                yield os.readlink(entry)  # noqa: PTH115 -- pathlib would make a path of what need not be one
            except OSError:
                continue
    except OSError:
        return


def _mapped_files(task: Path) -> Iterator[str]:
    try:
        with (task / "maps").open(errors="replace") as lines:
            for line in lines:
                words = line.rstrip("\n").split(maxsplit=5)
                if len(words) == 6:
                    yield words[5]
    except OSError:
        return
