# SPDX-License-Identifier: Apache-2.0
"""Where a log ends: its last whole record, and what a crash may have left behind it. Reads the end only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

from convgpu.audit.chain import EMPTY_HEAD, BrokenLineError, Head, link, split_line
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
