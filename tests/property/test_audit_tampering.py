# SPDX-License-Identifier: Apache-2.0
"""Any change to a log is found, and no log that a writer wrote is refused."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convgpu.audit.chain import Head
from convgpu.audit.files import Rotation, log_files
from convgpu.audit.seal import Sealing
from convgpu.audit.verify import verify
from convgpu.audit.writer import AuditWriter

names = st.text(max_size=20)
processes = st.fixed_dictionaries(
    {"pid": st.integers(), "start_ticks": st.integers()}, optional={"comm": st.none() | names, "uid": st.none()}
)
events = st.one_of(
    st.tuples(
        st.sampled_from(["witness.alloc", "witness.free"]),
        st.fixed_dictionaries({"process": processes, "source": names, "size_bytes": st.integers()}),
    ),
    st.tuples(
        st.just("container.seen"),
        st.fixed_dictionaries(
            {"container": st.fixed_dictionaries({"id": names}), "labels": st.dictionaries(names, names, max_size=3)}
        ),
    ),
    st.tuples(st.just("daemon.stop"), st.fixed_dictionaries({}, optional={"reason": names})),
)


def write(log: Path, written: list[tuple[str, dict[str, Any]]]) -> Head:
    """Write the events, with a restart in the middle."""
    for half in (written[: len(written) // 2], written[len(written) // 2 :]):
        with AuditWriter(log, inline_sync=False) as writer:
            for type_name, fields in half:
                writer.write(type_name, **fields)
            head = writer.head
    return head


@pytest.fixture(scope="module")
def log() -> tuple[bytes, Head]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        process = {"pid": 1, "start_ticks": 2, "comm": "größer"}
        written = [("witness.alloc", {"process": process, "source": "driver", "size_bytes": n}) for n in range(6)]
        head = write(path, [*written, ("daemon.stop", {})])
        return path.read_bytes(), head


def lines_of(content: bytes) -> list[bytes]:
    return BytesIO(content).readlines()


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(events, max_size=8))
def test_no_valid_log_is_refused(written: list[tuple[str, dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        head = write(path, written)
        report = verify(path, head)
        assert report.ok
        assert (report.records, report.head, report.torn_bytes) == (len(written), head, 0)


@settings(max_examples=400, deadline=None, database=None)
@given(st.data())
def test_any_changed_byte_is_found(log: tuple[bytes, Head], data: st.DataObject) -> None:
    content, head = log
    place = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    changed = content[:place] + bytes([value]) + content[place + 1 :]
    report = verify(lines_of(changed), head)
    assert not report.ok
    if place < len(content) - 1:
        assert verify(lines_of(changed)).problem_count > 0, "found without a kept head too, but for the last newline"


def test_any_flipped_bit_is_found(log: tuple[bytes, Head]) -> None:
    content, _ = log
    for place in range(0, len(content) - 1, 3):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        assert not verify(lines_of(bytes(changed))).ok, place


@settings(max_examples=200, deadline=None, database=None)
@given(st.data())
def test_any_inserted_or_removed_byte_is_found(log: tuple[bytes, Head], data: st.DataObject) -> None:
    content, head = log
    place = data.draw(st.integers(0, len(content) - 2))
    inserted = data.draw(st.binary(min_size=1, max_size=3))
    assert not verify(lines_of(content[:place] + inserted + content[place:])).ok
    removed = data.draw(st.integers(1, min(700, len(content) - 1 - place)))
    assert not verify(lines_of(content[:place] + content[place + removed :]), head).ok


def test_any_removed_doubled_or_exchanged_line_is_found(log: tuple[bytes, Head]) -> None:
    content, head = log
    lines = lines_of(content)
    for first in range(len(lines)):
        assert not verify([*lines[:first], *lines[first + 1 :]], head).ok
        for second in range(len(lines)):
            assert not verify([*lines[:second], lines[first], *lines[second:]]).ok
            if first != second:
                exchanged = list(lines)
                exchanged[first], exchanged[second] = lines[second], lines[first]
                assert not verify(exchanged).ok


def test_any_truncation_is_found_by_the_kept_head(log: tuple[bytes, Head]) -> None:
    content, head = log
    assert verify(lines_of(content), head).ok
    for length in range(len(content)):
        assert not verify(lines_of(content[:length]), head).ok


# A log of several files, with seals: everything before the last seal.


@pytest.fixture(scope="module")
def sealed() -> list[tuple[str, bytes]]:
    """The files of a log, by name, oldest first; the last one ends in a seal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        process = {"pid": 1, "start_ticks": 1, "comm": "größer"}
        with AuditWriter(path, rotation=Rotation(max_bytes=500), sealing=Sealing(interval_ns=10**18)) as writer:
            for size_bytes in range(3):
                writer.write("witness.alloc", process=process, source="driver", size_bytes=size_bytes)
        return [(each.name, each.read_bytes()) for each in log_files(path)]


def verify_set(files: list[tuple[str, bytes]]) -> bool:
    """Verify files as one log, without a head kept elsewhere."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for name, content in files:
            (Path(folder) / name).write_bytes(content)
        return verify(Path(folder) / "audit.jsonl").ok


def test_every_single_byte_of_a_sealed_range_counts(sealed: list[tuple[str, bytes]]) -> None:
    assert verify_set(sealed)
    content = b"".join(each for _, each in sealed)
    assert verify(lines_of(content)).ok
    end = content[:-1].rfind(b"\n") + 1  # the last seal seals what is before it
    changed = bytearray(content)
    for place in range(end):
        for value in {content[place] ^ (1 << bit) for bit in range(8)} | {0, 0x0A, 0x20, 0x7D, 0xFF}:
            if value != content[place]:
                changed[place] = value
                assert not verify(lines_of(bytes(changed))).ok, (place, value)
        changed[place] = content[place]


@settings(max_examples=150, deadline=None, database=None)
@given(st.data())
def test_any_changed_byte_of_any_file_is_found(sealed: list[tuple[str, bytes]], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(sealed) - 1))
    name, content = sealed[number]
    last = number == len(sealed) - 1
    end = content[:-1].rfind(b"\n") + 1 if last else len(content)
    place = data.draw(st.integers(0, end - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    files = list(sealed)
    files[number] = name, content[:place] + bytes([value]) + content[place + 1 :]
    assert not verify_set(files)


def test_any_file_that_is_missing_cut_or_doubled_is_found(sealed: list[tuple[str, bytes]]) -> None:
    assert len(sealed) > 2
    for number, (name, content) in enumerate(sealed[:-1]):
        assert not verify_set(sealed[:number] + sealed[number + 1 :])
        for length in range(0, len(content), 17):
            assert not verify_set([*sealed[:number], (name, content[:length]), *sealed[number + 1 :]])
        assert not verify_set([*sealed[:number], (name, content + content), *sealed[number + 1 :]])
