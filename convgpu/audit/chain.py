# SPDX-License-Identifier: Apache-2.0
"""How a record becomes bytes, and how each record's hash depends on all records before it.

The canonical bytes of a record are its JSON in UTF-8 with keys sorted by code point, no spaces, nothing escaped but
what JSON demands, integers only, and without the field `hash`. Then

    hash = SHA-256(prev || canonical bytes)

with `prev` as its 64 hexadecimal digits in ASCII; for the first record of a log these are all zero. The line in the
file is the canonical bytes with `,"hash":"..."` put before the last brace, and a newline. So a line can be checked
without any JSON library: `printf %s "$prev$line_without_hash" | sha256sum`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from convgpu.errors import UsageError

GENESIS: Final = "0" * 64
"""`prev` of the first record."""

_ENCODER: Final = msgspec.json.Encoder(order="sorted")
"""Writes what the standard library's json writes with sorted keys and no spaces, ten times as fast."""
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_HASH_HEAD: Final = b',"hash":"'
_HASH_TAIL: Final = b'"}'
_SUFFIX_BYTES: Final = len(_HASH_HEAD) + 64 + len(_HASH_TAIL)
_HEX_64: Final = re.compile(rb"[0-9a-f]{64}")


class Head(NamedTuple):
    """The last record of a log: who keeps it elsewhere can prove a later truncation.

    Attributes:
        seq: Its serial number; 0: the log is empty.
        hash: Its hash; `GENESIS`: the log is empty.
    """

    seq: int
    hash: str

    def __str__(self) -> str:
        """In the form that `parse_head` reads."""
        return f"{self.seq}:{self.hash}"


EMPTY_HEAD: Final = Head(0, GENESIS)


def parse_head(text: str) -> Head | str:
    """Read a head as a person noted it: `SEQ:HASH`, or the hash alone.

    Raises:
        UsageError: It is neither.
    """
    seq, _, digits = text.strip().lower().rpartition(":")
    if not _HEX_64.fullmatch(digits.encode()) or (seq and not (seq.isascii() and seq.isdigit())):
        raise UsageError(
            f"'{text}' is not a head: write SEQ:HASH as `convgpu audit head` says it, or the hash's 64 digits"
        )
    return Head(int(seq), digits) if seq else digits


class BrokenLineError(ValueError):
    """A line that no writer of ours wrote."""


def canonical_bytes(record: Mapping[str, object]) -> bytes:
    """Return the bytes that are hashed. What is not Unicode (a process may have any name) is written as U+FFFD."""
    body = {name: value for name, value in record.items() if name != "hash"} if "hash" in record else record
    try:
        return _ENCODER.encode(body)
    except UnicodeEncodeError:
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8")


def link(prev: str, canonical: bytes) -> str:
    """Return the hash of a record that follows the one with hash `prev`."""
    return sha256(prev.encode("ascii") + canonical).hexdigest()


def join_line(canonical: bytes, record_hash: str) -> bytes:
    """Return the line of the file, newline included."""
    return b"".join((canonical[:-1], _HASH_HEAD, record_hash.encode("ascii"), _HASH_TAIL, b"\n"))


def split_line(line: bytes) -> tuple[bytes, str]:
    """Take a line, without its newline, apart into canonical bytes and the hash it states.

    Raises:
        BrokenLineError: It is not of that form.
    """
    suffix = line[-_SUFFIX_BYTES:]
    digits = suffix[len(_HASH_HEAD) : -len(_HASH_TAIL)]
    if (
        not line.startswith(b"{")
        or not suffix.startswith(_HASH_HEAD)
        or not suffix.endswith(_HASH_TAIL)
        or _HEX_64.fullmatch(digits) is None
    ):
        raise BrokenLineError("the line does not end in a hash")
    return line[:-_SUFFIX_BYTES] + b"}", digits.decode("ascii")
