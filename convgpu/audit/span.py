# SPDX-License-Identifier: Apache-2.0
"""Checks a stretch of a log by itself: all that can be said of its lines without those before them.

Whether a stretch follows the one before it, `audit.verify` decides; so stretches are checked side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from convgpu.audit.chain import EMPTY_HEAD, GENESIS, BrokenLineError, Head, canonical_bytes, split_line
from convgpu.audit.records import FORMAT_VERSION
from convgpu.audit.seal import SEAL, SealKey, check_seal

KEPT_PROBLEMS: Final = 100
"""A report lists so many problems and counts the others."""

_DECODER: Final = msgspec.json.Decoder()


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
    SEAL = "seal"
    """A seal that is not signed with the key that was given."""
    HEAD = "head"
    """The log does not contain the head that was expected."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding; `line` counts from 1 in its file."""

    line: int
    kind: ProblemKind
    message: str
    file: str = ""


class Link(NamedTuple):
    """Where a stretch begins: the first line of it that is a record."""

    line: int
    seq: int
    prev: str


@dataclass(slots=True)
class Span:
    """What was found in a stretch.

    Attributes:
        lines: All of them.
        records: Those whose hash fits.
        link: The first of them that is a record; None: there is none.
        end: What the next record after this stretch must follow; only with `link`.
        head: The last record whose hash fits.
        sealed_seq: The last seal among these; 0: none.
        seals, signed_seals: How many.
        torn_bytes: Length of a last line without newline; 0: there is none.
        head_found: Whether a record has the expected head.
    """

    lines: int = 0
    records: int = 0
    link: Link | None = None
    end: Head = EMPTY_HEAD
    head: Head = EMPTY_HEAD
    first_seq: int | None = None
    first_ts: str | None = None
    last_ts: str | None = None
    sealed_seq: int = 0
    seals: int = 0
    signed_seals: int = 0
    torn_bytes: int = 0
    head_found: bool = False
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    def complain(self, line: int, kind: ProblemKind, message: str) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(Problem(line, kind, message))


def scan(lines: Iterable[bytes], expect_head: Head | str | None = None, key: SealKey | None = None) -> Span:
    """Check lines, with their newlines, that stand one after another.

    Args:
        lines: The stretch.
        expect_head: A head, or its hash, to look for.
        key: Seals must be signed with it.
    """
    span = Span()
    expected: Head | None = None
    number = 0
    for number, line in enumerate(lines, start=1):
        if span.torn_bytes:
            span.complain(number - 1, ProblemKind.BROKEN, "the line is longer than any record")
            span.torn_bytes = 0
        if not line.endswith(b"\n"):
            span.torn_bytes = len(line)
            continue
        try:
            canonical, stated_hash = split_line(line[:-1])
            record = _DECODER.decode(canonical)
            seq, prev, ts, version = record["seq"], record["prev"], record["ts"], record["v"]
            if type(seq) is not int or type(prev) is not str or type(ts) is not str:
                raise BrokenLineError("seq, prev or ts is not of its kind")
            if canonical_bytes(record) != canonical:
                raise BrokenLineError("not in canonical form, so readers may not agree on what it says")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            span.complain(number, ProblemKind.BROKEN, f"not an audit record: {error}")
            continue
        valid = True
        if version != FORMAT_VERSION:
            span.complain(number, ProblemKind.VERSION, f"format version {version!r} is not known")
            valid = False
        if not prev.isascii() or sha256(prev.encode("ascii") + canonical).hexdigest() != stated_hash:
            span.complain(number, ProblemKind.HASH, f"record {seq} was changed: its hash does not match")
            valid = False
        if expected is None:
            span.link = Link(number, seq, prev)
        else:
            check_link(span, number, Head(seq, prev), expected)
        # Go on from what this line states, so that one change is one finding and not one for every later line.
        expected = Head(seq, stated_hash)
        if valid:
            _take(span, number, record, expected, expect_head, key)
    span.lines = number
    span.end = expected or EMPTY_HEAD
    return span


def check_link(span: Span, line: int, link_to: Head, expected: Head) -> None:
    """Complain where a record, of this serial number and with this `prev`, does not follow the expected one."""
    seq, prev = link_to
    if prev != expected.hash:
        span.complain(line, ProblemKind.CHAIN, f"record {seq} does not follow the line before it")
    if seq != expected.seq + 1:
        span.complain(line, ProblemKind.SEQ, f"serial number {seq} where {expected.seq + 1} was due")


def _take(
    span: Span, number: int, record: dict[str, object], head: Head, expect_head: Head | str | None, key: SealKey | None
) -> None:
    span.records += 1
    ts = str(record["ts"])
    if span.first_seq is None:
        span.first_seq, span.first_ts = head.seq, ts
    span.last_ts = ts
    span.head = head
    if expect_head is not None and expect_head in (head, head.hash):
        span.head_found = True
    if record.get("type") == SEAL:
        span.seals += 1
        span.sealed_seq = head.seq
        if key is not None:
            wrong = check_seal(record, key)
            if wrong is not None:
                span.complain(number, ProblemKind.SEAL, f"record {head.seq}: {wrong}")
        span.signed_seals += "signature" in record


def is_beginning(expected: Head | str | None) -> bool:
    """Whether an expected head is that of an empty log, which every log has."""
    return expected in (EMPTY_HEAD, GENESIS)
