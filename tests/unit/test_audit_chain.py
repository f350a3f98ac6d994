# SPDX-License-Identifier: Apache-2.0
"""Golden vectors: these bytes and hashes must never change for format version 1."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.audit.chain import GENESIS, BrokenLineError, canonical_bytes, join_line, link, split_line

FIRST = {
    "v": 1,
    "seq": 1,
    "ts": "2026-01-31T12:00:00.000000001Z",
    "mono_ns": 5000000000,
    "boot_id": "00000000-0000-0000-0000-000000000000",
    "type": "daemon.stop",
    "msg": "ConvGPU stops",
    "prev": GENESIS,
}
FIRST_BYTES = (
    b'{"boot_id":"00000000-0000-0000-0000-000000000000","mono_ns":5000000000,"msg":"ConvGPU stops",'
    b'"prev":"0000000000000000000000000000000000000000000000000000000000000000","seq":1,'
    b'"ts":"2026-01-31T12:00:00.000000001Z","type":"daemon.stop","v":1}'
)
FIRST_HASH = "00e6a15b23f778e661380e4dfa4e636941b39c31d8f62cbde5bdc0075f97536d"

SECOND = {
    "z": 'quote " backslash \\ tab \t newline \n nul \0',
    "ä": "größer → 記録 😀 \u2028 /",
    "nested": {"b": [1, True, None, -7], "a": {}},
    "seq": 2,
    "prev": FIRST_HASH,
    "hash": "is not part of it",
}
SECOND_BYTES = (
    '{"nested":{"a":{},"b":[1,true,null,-7]},"prev":"' + FIRST_HASH + '","seq":2,'
    '"z":"quote \\" backslash \\\\ tab \\t newline \\n nul \\u0000","ä":"größer → 記録 😀 \u2028 /"}'
).encode()
SECOND_HASH = "75ab22fc0b4e68f9c32033f40eaf0fa69bfa59f4e79cba9c524cc45638ef6d32"


def test_canonical_bytes() -> None:
    assert canonical_bytes(FIRST) == FIRST_BYTES
    assert canonical_bytes(SECOND) == SECOND_BYTES


def test_hashes() -> None:
    assert link(GENESIS, FIRST_BYTES) == FIRST_HASH
    assert link(FIRST_HASH, SECOND_BYTES) == SECOND_HASH
    assert sha256(GENESIS.encode() + FIRST_BYTES).hexdigest() == FIRST_HASH, "as sha256sum would"


def test_the_line_is_the_canonical_bytes_with_the_hash_at_their_end() -> None:
    line = join_line(FIRST_BYTES, FIRST_HASH)
    assert line == FIRST_BYTES[:-1] + b',"hash":"' + FIRST_HASH.encode() + b'"}\n'
    assert json.loads(line) == {**FIRST, "hash": FIRST_HASH}
    assert split_line(line[:-1]) == (FIRST_BYTES, FIRST_HASH)


def test_what_is_not_unicode_is_replaced() -> None:
    name = b"evil\xff\xfe".decode("utf-8", "surrogateescape")
    assert canonical_bytes({"comm": name}) == '{"comm":"evil\ufffd\ufffd"}'.encode()


def test_a_line_with_a_float_that_json_does_not_know_is_not_canonical() -> None:
    assert canonical_bytes({"size": float("nan")}) != b'{"size":NaN}'


TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["\x7f\x00\x1f\u2028", '\\"/', "é𝄞"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_the_canonical_bytes_are_those_of_the_standard_library(record: dict[str, object]) -> None:
    record.pop("hash", None)
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical_bytes(record) == text.encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        FIRST_BYTES,
        FIRST_BYTES[:-1] + b',"hash":"' + b"g" * 64 + b'"}',
        FIRST_BYTES[:-1] + b',"hash":"' + b"A" * 64 + b'"}',
        FIRST_BYTES[:-1] + b', "hash":"' + b"a" * 64 + b'"}',
        b"[" + FIRST_BYTES[1:-1] + b',"hash":"' + b"a" * 64 + b'"}',
    ],
)
def test_what_no_writer_wrote_is_told_apart(line: bytes) -> None:
    with pytest.raises(BrokenLineError):
        split_line(line)
