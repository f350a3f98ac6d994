# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process, and the descriptor that names it for good."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from convgpu.core.identity import ProcessKey

PROC: Final = Path("/proc")
_START_TICKS_FIELD: Final = 22
"""proc(5): field 22 of /proc/PID/stat is the start time in clock ticks since boot."""

_OVER: Final = (b"Z", b"X")
"""States in /proc/PID/stat of a thread that runs no more: zombie, dead."""


class ProcessGoneError(Exception):
    """The process ended before it could be looked at. An ordinary event, not a failure."""


def pids(proc: Path = PROC) -> list[int]:
    """Return the pids of all processes."""
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]


def start_ticks(pid: int, proc: Path = PROC) -> int:
    """Return a process's start time in clock ticks since boot.

    Raises:
        ProcessGoneError: No such process any more.
    """
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(pid) from error
    # The second field, the name, is in parentheses and may itself contain spaces and parentheses.
    after_name = stat[stat.rindex(b")") + 1 :].split()
    return int(after_name[_START_TICKS_FIELD - 3])


def ran_at(pid: int, mono_ns: int, proc: Path = PROC) -> bool:
    """Tell whether the process that has a pid now had it at a moment in the past, CLOCK_MONOTONIC."""
    try:
        ticks = start_ticks(pid, proc)
    except ProcessGoneError:
        return False
    # The start time counts while the machine sleeps, the moment does not.
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return ticks * tick_ns <= mono_ns + asleep_ns + tick_ns


def has_ended(pid: int, proc: Path = PROC) -> bool:
    """Tell whether no thread of a process runs any more: it is gone, or waits for its parent to take notice."""
    try:
        for task in (proc / str(pid) / "task").iterdir():
            state = (task / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if state not in _OVER:
                return False
    except (FileNotFoundError, ProcessLookupError):
        return not (proc / str(pid)).exists()  # else a thread ended while we looked: ask again
    return True


def command_name(pid: int, proc: Path = PROC) -> str | None:
    """Return a process's short name, or None when it is gone."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return None


def namespace_pid(pid: int, proc: Path = PROC) -> int:
    """Return a process's pid as it is seen in its own pid namespace.

    Raises:
        ProcessGoneError: No such process any more.
    """
    try:
        status = (proc / str(pid) / "status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(pid) from error
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])  # from the outermost namespace to the process's own
    return pid


def user_id(pid: int, proc: Path = PROC) -> int | None:
    """Return the uid that owns a process, or None when it is gone."""
    try:
        return (proc / str(pid)).stat().st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None


def maps_file(pid: int, device: int, inode: int, proc: Path = PROC) -> bool:
    """Tell whether a process has a file mapped.

    Used to tell a process that replaced its program (exec drops every mapping) from one that merely closed its
    sockets.
    """
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}"
    try:
        with (proc / str(pid) / "maps").open() as lines:
            return any(fields[3] == wanted and int(fields[4]) == inode for fields in map(str.split, lines))
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_process(pid: int) -> tuple[int, ProcessKey]:
    """Open a descriptor that becomes readable when the process ends, and return it with the process's key.

    The start time is read after the descriptor is open: if the pid was used again in between, the descriptor names the
    new process and so does the key.

    Raises:
        ProcessGoneError: No such process.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise ProcessGoneError(pid) from error
    try:
        return descriptor, ProcessKey(pid, start_ticks(pid))
    except ProcessGoneError:
        os.close(descriptor)
        raise
