# SPDX-License-Identifier: Apache-2.0
"""What a writer does with files besides appending: the lock of its log, whole files, folders brought to the disk."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from convgpu.errors import AuditError

MODE: Final = 0o640
"""Of the log and of what lies beside it."""


def lock(path: Path) -> int:
    """Take the lock beside the log: it stays where it is when the log itself is rotated.

    Returns:
        The descriptor that holds it.

    Raises:
        AuditError: Another process has it, or the folder cannot be written.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as error:
        raise AuditError(f"cannot write the audit log {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise AuditError(
            f"another process (pid {owner}) writes the audit log {path}",
            next_step="stop it, or choose another log folder",
        ) from error
    with suppress(OSError):  # a full disk; the pid only makes the message above better
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def write_whole(path: Path, content: bytes, flags: int) -> None:
    """Write all of it, and bring it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, MODE)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_aside(path: Path, archive: Path, descriptor: int) -> None:
    """Rename a log that is open, and let its descriptor stand for a new, empty file of the old name.

    The number of the descriptor stays the same, so that a thread that syncs meanwhile syncs one of the two.

    Raises:
        OSError: It cannot be done; all is as it was.
    """
    if archive.exists():
        raise FileExistsError(errno.EEXIST, f"there is a file {archive.name} already")
    path.rename(archive)
    try:
        fresh = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except OSError:
        archive.rename(path)
        raise
    os.dup2(fresh, descriptor, inheritable=False)
    os.close(fresh)
