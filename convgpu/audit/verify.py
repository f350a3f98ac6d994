# SPDX-License-Identifier: Apache-2.0
"""Does a log hold together? Streams, needs constant memory and no privileges.

What a chain can show: any change, removal, insertion or reordering of records before its last one. What it cannot show
alone: that its end was cut off, or that all of it was written anew by somebody who may write the file. Against both
helps a head kept elsewhere (`expect_head`).

A last line without its newline is what a crash leaves behind; it is reported as torn, not as a problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from convgpu.audit.chain import EMPTY_HEAD, GENESIS, BrokenLineError, Head, canonical_bytes, link, split_line
from convgpu.audit.records import FORMAT_VERSION
from convgpu.errors import AuditError

KEPT_PROBLEMS: Final = 100
"""A report lists so many problems and counts the others."""

_LONGEST_LINE_BYTES: Final = 64 * 1024 * 1024


class ProblemKind(StrEnum):
    """What is wrong with a line."""

    BROKEN = "broken"
    """It is not a record: not JSON, or no hash at its end."""
    HASH = "hash"
    """Its content is not what was hashed."""
    CHAIN = "chain"
    """It does not follow the record before it."""
    SEQ = "seq"
    """Its serial number is not the next one."""
    VERSION = "version"
    """A format that this version does not know."""
    HEAD = "head"
    """The log does not contain the head that was expected."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding; `line` counts from 1."""

    line: int
    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result.

    Attributes:
        ok: No problem was found. A torn last line is none.
        records: Valid records.
        first_seq, last_seq, first_ts, last_ts: Of the first and the last valid record; None: there is none.
        head: The last valid record, to be kept elsewhere.
        torn_bytes: Length of a last line without newline; 0: there is none.
        problem_count: All problems; `problems` has the first of them.
    """

    ok: bool
    records: int
    first_seq: int | None
    last_seq: int | None
    first_ts: str | None
    last_ts: str | None
    head: Head
    torn_bytes: int
    problem_count: int
    problems: tuple[Problem, ...]


def verify(log: Path | str | Iterable[bytes], expect_head: Head | str | None = None) -> VerifyReport:
    """Check a whole log.

    Args:
        log: Its path, or its lines as bytes with their newlines.
        expect_head: A head kept from earlier, or its hash alone. The log must contain it; it may have grown since.

    Raises:
        AuditError: The file cannot be read.
    """
    lines = _lines_of(Path(log)) if isinstance(log, (str, Path)) else iter(log)
    walk = _Walk(expect_head)
    for number, line in enumerate(lines, start=1):
        walk.take(number, line)
    return walk.report()


def _lines_of(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE_BYTES):
                yield line
    except OSError as error:
        raise AuditError(f"cannot read the audit log {path}: {error.strerror}") from error


@dataclass(slots=True)
class _Walk:
    expect_head: Head | str | None
    records: int = 0
    first: tuple[int, str] | None = None
    last_ts: str | None = None
    head: Head = EMPTY_HEAD
    expected_prev: str = GENESIS
    expected_seq: int = 1
    lines: int = 0
    torn_bytes: int = 0
    head_found: bool = False
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    def take(self, number: int, line: bytes) -> None:
        self.lines = number
        if self.torn_bytes:
            self._complain(number - 1, ProblemKind.BROKEN, "the line is longer than any record")
            self.torn_bytes = 0
        if not line.endswith(b"\n"):
            self.torn_bytes = len(line)
            return
        try:
            canonical, stated_hash = split_line(line[:-1])
            record = json.loads(canonical)
            seq, prev, ts, version = record["seq"], record["prev"], record["ts"], record["v"]
            if type(seq) is not int or type(prev) is not str or type(ts) is not str:
                raise BrokenLineError("seq, prev or ts is not of its kind")
            if canonical_bytes(record) != canonical:
                raise BrokenLineError("not in canonical form, so readers may not agree on what it says")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._complain(number, ProblemKind.BROKEN, f"not an audit record: {error}")
            return
        self._take_record(number, canonical, stated_hash, Head(seq, prev), ts, version)

    def _take_record(
        self, number: int, canonical: bytes, stated_hash: str, link_to: Head, ts: str, version: object
    ) -> None:
        seq, prev = link_to
        valid = True
        if version != FORMAT_VERSION:
            valid = self._complain(number, ProblemKind.VERSION, f"format version {version!r} is not known")
        if not prev.isascii() or link(prev, canonical) != stated_hash:
            valid = self._complain(number, ProblemKind.HASH, f"record {seq} was changed: its hash does not match")
        if prev != self.expected_prev:
            valid = self._complain(number, ProblemKind.CHAIN, f"record {seq} does not follow the line before it")
        if seq != self.expected_seq:
            valid = self._complain(number, ProblemKind.SEQ, f"serial number {seq} where {self.expected_seq} was due")
        # Go on from what this line states, so that one change is one finding and not one for every later line.
        self.expected_prev, self.expected_seq = stated_hash, seq + 1
        if valid:
            self.records += 1
            self.first = self.first or (seq, ts)
            self.last_ts = ts
            self.head = Head(seq, stated_hash)
            self.head_found = self.head_found or self.expect_head in (self.head, stated_hash)

    def _complain(self, number: int, kind: ProblemKind, message: str) -> bool:
        self.problem_count += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(Problem(number, kind, message))
        return False

    def report(self) -> VerifyReport:
        empty_head_expected = self.expect_head in (EMPTY_HEAD, GENESIS)
        if self.expect_head is not None and not self.head_found and not empty_head_expected:
            wanted = self.expect_head if isinstance(self.expect_head, str) else self.expect_head.hash
            self._complain(
                self.lines, ProblemKind.HEAD, f"no valid record has the expected hash {wanted}: truncated or replaced"
            )
        return VerifyReport(
            ok=self.problem_count == 0,
            records=self.records,
            first_seq=self.first[0] if self.first else None,
            last_seq=self.head.seq if self.first else None,
            first_ts=self.first[1] if self.first else None,
            last_ts=self.last_ts,
            head=self.head,
            torn_bytes=self.torn_bytes,
            problem_count=self.problem_count,
            problems=tuple(self.problems),
        )
