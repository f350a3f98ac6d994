# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convgpu.audit.chain import EMPTY_HEAD, Head
from convgpu.audit.verify import verify
from convgpu.audit.writer import SYNC_INTERVAL_NS, AuditWriter
from convgpu.errors import AuditError

DECISION: dict[str, Any] = {
    "container": {"id": "c"},
    "process": {"pid": 1, "start_ticks": 2},
    "size_bytes": 3,
    "waited_ns": 0,
}
EVENT: dict[str, Any] = {"process": {"pid": 1, "start_ticks": 2}, "source": "driver", "size_bytes": 4}


class HandClock:
    """Goes when it is told to."""

    boot_id = "00000000-0000-0000-0000-000000000000"

    def __init__(self) -> None:
        self.now_ns = 0

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


def types_in(log: Path) -> list[str]:
    return [json.loads(line)["type"] for line in log.read_bytes().splitlines()]


def test_a_new_log_begins_with_the_first_record(log: Path) -> None:
    with AuditWriter(log) as writer:
        assert writer.head == EMPTY_HEAD
        assert writer.write("decision.granted", **DECISION) == 1
        assert writer.write("witness.alloc", msg="as I say", **EVENT) == 2
        head = writer.head
    first, second = (json.loads(line) for line in log.read_bytes().splitlines())
    assert (first["seq"], first["prev"], second["prev"]) == (1, EMPTY_HEAD.hash, first["hash"])
    assert second["msg"] == "as I say"
    assert head == Head(2, second["hash"])
    assert verify(log, head).ok


def test_a_restart_continues_the_chain(log: Path) -> None:
    for _ in range(3):
        with AuditWriter(log) as writer:
            writer.write("daemon.start", version="0", algorithm="fifo")
            writer.write("daemon.stop")
    report = verify(log)
    assert report.ok
    assert report.records == 6


def test_a_long_last_record_is_found_from_the_end(log: Path) -> None:
    labels = {"convgpu.note": "x" * 200_000}
    with AuditWriter(log) as writer:
        writer.write("container.seen", container={"id": "c"}, labels=labels)
        writer.write("container.seen", container={"id": "d"}, labels=labels)
        head = writer.head
    with AuditWriter(log) as writer:
        assert writer.head == head


def test_two_writers_are_one_too_many(log: Path) -> None:
    with AuditWriter(log), pytest.raises(AuditError, match=rf"another process \(pid {os.getpid()}\) writes"):
        AuditWriter(log)
    AuditWriter(log).close()


def test_a_mistake_of_the_caller_writes_nothing(log: Path) -> None:
    with AuditWriter(log) as writer:
        with pytest.raises(ValueError, match="no field"):
            writer.write("daemon.stop", size_bytes=3)
        assert writer.head == EMPTY_HEAD
    with pytest.raises(AuditError, match="closed"):
        writer.write("daemon.stop")


# Durability.


def test_decisions_are_on_the_disk_at_once_and_others_within_the_interval(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    clock = HandClock()
    writer = AuditWriter(log, clock=clock)
    writer.write("decision.granted", **DECISION)
    assert len(syncs) == 1
    assert not writer.dirty

    clock.now_ns = 1000
    writer.write("witness.alloc", **EVENT)
    clock.now_ns = 2000
    writer.write("witness.alloc", **EVENT)
    assert len(syncs) == 1
    assert writer.dirty
    assert writer.next_flush_ns == 1000 + SYNC_INTERVAL_NS
    writer.flush_due(999 + SYNC_INTERVAL_NS)
    assert len(syncs) == 1
    writer.flush_due(1000 + SYNC_INTERVAL_NS)
    assert len(syncs) == 2
    assert writer.next_flush_ns is None

    with writer.batch():
        for _ in range(5):
            writer.write("decision.granted", **DECISION)
        assert len(syncs) == 2
    assert len(syncs) == 3


def test_an_owner_with_a_thread_is_never_kept_waiting(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    writer = AuditWriter(log, inline_sync=False)
    writer.write("witness.alloc", **EVENT)
    assert (writer.dirty, writer.urgent) == (True, False)
    writer.write("decision.granted", **DECISION)
    assert (writer.dirty, writer.urgent) == (True, True)
    assert syncs == []
    writer.sync()
    assert (writer.dirty, writer.urgent, len(syncs)) == (False, False, 1)


# What a crash leaves behind.


def write_log(log: Path, records: int) -> list[bytes]:
    with AuditWriter(log) as writer:
        for _ in range(records):
            writer.write("witness.alloc", **EVENT)
    return log.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_cut_kept_and_said(log: Path, kept: int) -> None:
    lines = write_log(log, 3)
    torn = lines[2][:kept]
    log.write_bytes(lines[0] + lines[1] + torn)
    with AuditWriter(log) as writer:
        assert writer.head.seq == 3
        writer.write("daemon.stop")
    assert types_in(log) == ["witness.alloc", "witness.alloc", "log.repaired", "daemon.stop"]
    repaired = json.loads(log.read_bytes().splitlines()[2])
    assert repaired["cut_bytes"] == len(torn)
    assert log.with_name(repaired["kept_in"]).read_bytes() == torn + b"\n"
    assert not log.with_name(log.name + ".repairing").exists()
    assert verify(log).ok


def test_a_log_that_is_only_a_torn_line_begins_anew(log: Path) -> None:
    lines = write_log(log, 1)
    log.write_bytes(lines[0][:50])
    with AuditWriter(log) as writer:
        assert writer.head.seq == 1
    assert types_in(log) == ["log.repaired"]


def test_a_crash_in_the_middle_of_the_repair_is_said_too(log: Path) -> None:
    lines = write_log(log, 2)
    log.write_bytes(lines[0])
    log.with_name(log.name + ".repairing").write_bytes(lines[1][:30])
    AuditWriter(log).close()
    repaired = json.loads(log.read_bytes().splitlines()[1])
    assert (repaired["type"], repaired["cut_bytes"]) == ("log.repaired", 30)
    AuditWriter(log).close()
    assert types_in(log) == ["witness.alloc", "log.repaired"], "and said once"


def test_zeros_that_a_power_cut_left_are_a_torn_line(log: Path) -> None:
    write_log(log, 2)
    with log.open("ab") as file:
        file.write(bytes(5000))
    AuditWriter(log).close()
    assert types_in(log) == ["witness.alloc", "witness.alloc", "log.repaired"]
    assert verify(log).ok


@pytest.mark.parametrize("change", [lambda line: b"garbage\n", lambda line: line.replace(b'_bytes":4', b'_bytes":5')])
def test_a_last_record_that_is_no_crash_is_not_continued(log: Path, change: Callable[[bytes], bytes]) -> None:
    lines = write_log(log, 2)
    changed = lines[0] + change(lines[1])
    log.write_bytes(changed)
    with pytest.raises(AuditError) as refused:
        AuditWriter(log)
    assert "convgpu audit verify" in str(refused.value.next_step)
    assert log.read_bytes() == changed, "evidence is left as it is"
    log.write_bytes(b"".join(lines))
    AuditWriter(log).close()


# A disk that takes no more.


class FullDisk:
    """Lets `os.write` do part of its work, or none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room is None:
            return self._write(descriptor, data)
        if self.room == 0:
            raise OSError(28, "No space left on device")
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_is_counted_and_said_when_there_is_space_again(
    log: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = FullDisk(monkeypatch)
    clock = HandClock()
    writer = AuditWriter(log, clock=clock)
    writer.write("witness.alloc", **EVENT)
    before = log.read_bytes()
    disk.room = room
    clock.now_ns = 100
    for _ in range(4):
        assert writer.write("decision.granted", **DECISION) is None
    assert log.read_bytes() == before, "no half line stays"
    assert writer.lost == 4

    disk.room = None
    clock.now_ns = 350
    assert writer.write("decision.granted", **DECISION) == 3
    loss = json.loads(log.read_bytes().splitlines()[1])
    assert (loss["type"], loss["count"], loss["period_ns"]) == ("loss", 4, 250)
    assert loss["reason"] == "not written: No space left on device"
    assert writer.lost == 0
    writer.close()
    assert verify(log).ok


def test_losses_are_said_even_if_nothing_else_is_to_be_written(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    writer = AuditWriter(log)
    disk.room = 0
    writer.write("daemon.stop")
    writer.flush_due(1)
    assert writer.lost == 1
    assert writer.next_flush_ns is not None
    disk.room = None
    writer.flush_due(2)
    assert (writer.lost, types_in(log)) == (0, ["loss"])


def test_a_sync_that_fails_is_said(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    writer = AuditWriter(log)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        assert writer.write("decision.granted", **DECISION) == 1
    assert writer.lost == 1
    writer.write("witness.alloc", **EVENT)
    assert types_in(log) == ["decision.granted", "loss", "witness.alloc"]
    assert json.loads(log.read_bytes().splitlines()[1])["reason"] == "not synced: Input/output error"


def test_what_others_appended_is_never_cut(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    writer = AuditWriter(log)
    writer.write("witness.alloc", **EVENT)
    with log.open("ab") as file:
        file.write(b"a foreign line\n")
    disk.room = 10
    writer.write("witness.alloc", **EVENT)
    disk.room = None
    writer.close()
    assert [problem.line for problem in verify(log).problems] == [2]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot write the audit log"):
        AuditWriter(tmp_path / "file" / "audit.jsonl")
