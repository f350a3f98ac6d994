# SPDX-License-Identifier: Apache-2.0
"""Where a log ends: its last whole record, and what a crash may have left behind it. Reads the end only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from convgpu.audit.chain import EMPTY_HEAD, BrokenLineError, Head, link, split_line
from convgpu.audit.clock import parse_timestamp
from convgpu.audit.files import is_compressed, read_lines
from convgpu.errors import AuditError

_BLOCK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log.

    Attributes:
        head: The last whole record.
        whole_bytes: Length of the file up to the end of that record.
        torn: What comes after it: the begin of a line without its newline, or nothing.
    """

    head: Head
    whole_bytes: int
    torn: bytes


class FileStart(NamedTuple):
    """The first record of a file: its serial number, and its time in nanoseconds since 1970."""

    seq: int
    wall_ns: int


def read_head(path: Path) -> Head:
    """Return the last whole record of one file of a log.

    Raises:
        AuditError: It cannot be read, or the last whole line is not a record with a valid hash.
    """
    if is_compressed(path):
        last = b""
        for line in read_lines([path]):
            last = line if line.endswith(b"\n") else last
        return _head_of(last[:-1], str(path)) if last else EMPTY_HEAD
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise AuditError(f"cannot read the audit log {path}: {error.strerror}") from error
    try:
        return read_tail(descriptor, str(path)).head
    finally:
        os.close(descriptor)


def read_start(descriptor: int) -> FileStart | None:
    """Return the first record of the file that `descriptor` has open; None: its first line is none."""
    block = b""
    while b"\n" not in block:
        more = os.pread(descriptor, _BLOCK_BYTES, len(block))
        if not more:
            return None
        block += more
    try:
        record = json.loads(block.partition(b"\n")[0])
        return FileStart(int(record["seq"]), parse_timestamp(record["ts"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_tail(descriptor: int, name: str) -> Tail:
    """Find the end of the log that `descriptor` has open.

    Args:
        descriptor: Open for reading; its position is not used.
        name: For messages.

    Raises:
        AuditError: The last whole line is not a record with a valid hash. That is no crash.
    """
    length = os.fstat(descriptor).st_size
    start = length
    block = b""
    while start > 0 and block.count(b"\n") < 2:
        wanted = min(_BLOCK_BYTES, start)
        start -= wanted
        block = os.pread(descriptor, wanted, start) + block
    whole, newline, torn = block.rpartition(b"\n")
    if not newline:
        return Tail(EMPTY_HEAD, 0, torn)
    return Tail(_head_of(whole.rpartition(b"\n")[2], name), length - len(torn), torn)


def _head_of(line: bytes, name: str) -> Head:
    next_step = f"run `convgpu audit verify {name}`; to begin a new log, move this file away and keep it"
    try:
        canonical, stated_hash = split_line(line)
        record = json.loads(canonical)
        seq, prev = int(record["seq"]), str(record["prev"])
    except (BrokenLineError, ValueError, KeyError, TypeError) as error:
        raise AuditError(f"the last line of {name} is not an audit record: {error}", next_step=next_step) from error
    if link(prev, canonical) != stated_hash:
        raise AuditError(f"the last record of {name} (seq {seq}) does not match its hash", next_step=next_step)
    return Head(seq, stated_hash)
