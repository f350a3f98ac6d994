# SPDX-License-Identifier: Apache-2.0
"""A log of several files is one log: for its writer, for whoever reads it, and for the verifier."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from convgpu.audit.chain import EMPTY_HEAD, Head
from convgpu.audit.files import Rotation, archives, log_files, read_lines
from convgpu.audit.seal import Sealing
from convgpu.audit.tail import read_head
from convgpu.audit.verify import ProblemKind, verify, verify_files
from convgpu.audit.writer import AuditWriter
from convgpu.errors import AuditError

EVENT: dict[str, Any] = {"process": {"pid": 1, "start_ticks": 2}, "source": "driver", "size_bytes": 4}
SECOND = 1_000_000_000


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
    return tmp_path / "audit.jsonl"


def records_of(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(files)]


def types_of(path: Path) -> list[str]:
    return [record["type"] for record in records_of(path)]


def write_rotated(log: Path, records: int = 30, max_bytes: int = 3000) -> Head:
    with AuditWriter(log, rotation=Rotation(max_bytes=max_bytes), inline_sync=False) as writer:
        for _ in range(records):
            writer.write("witness.alloc", **EVENT)
        return writer.head


def test_a_file_that_is_large_enough_is_sealed_and_the_chain_goes_on_in_the_next(log: Path) -> None:
    head = write_rotated(log)
    closed = archives(log)
    assert len(closed) >= 3
    for path in closed:
        assert types_of(path)[-1] == "seal"
        assert path.stat().st_size < 3000 + 2000
        assert path.name == f"audit.{records_of(path)[0]['seq']:012d}.jsonl"
    for earlier, later in zip(closed, [*closed[1:], log], strict=True):
        first = records_of(later)[0]
        assert (first["type"], first["previous_file"], first["reason"]) == ("log.rotated", earlier.name, "size")
    report = verify(log, head)
    assert report.ok
    assert (report.files, report.head) == (len(closed) + 1, head)
    assert report.records == head.seq
    written = [record for record in records_of(*log_files(log)) if record["type"] == "witness.alloc"]
    assert len(written) == 30, "nothing is lost between two files"


def test_events_written_together_stay_together(log: Path) -> None:
    from convgpu.audit.builder import Event

    with AuditWriter(log, rotation=Rotation(max_bytes=1)) as writer:
        events = [Event("witness.alloc", "m", EVENT, 1, 1)] * 5
        assert writer.write_events(events) == 5, "the number of the last of them, not of what rotation added"
    assert types_of(archives(log)[0]) == ["witness.alloc"] * 5 + ["seal"]


def test_a_file_that_is_old_enough_is_put_aside_when_the_owner_tends_it(log: Path) -> None:
    clock = HandClock()
    with AuditWriter(log, clock=clock, rotation=Rotation(max_age_ns=60 * SECOND)) as writer:
        writer.write("witness.alloc", **EVENT)
        clock.now_ns = 59 * SECOND
        writer.tend(clock.now_ns)
        assert archives(log) == []
        clock.now_ns = 60 * SECOND
        writer.tend(clock.now_ns)
    assert len(archives(log)) == 1
    first = records_of(log)[0]
    assert (first["type"], first["reason"]) == ("log.rotated", "age")


def test_age_counts_from_the_first_record_also_after_a_restart(log: Path) -> None:
    clock = HandClock()
    with AuditWriter(log, clock=clock) as writer:
        writer.write("witness.alloc", **EVENT)
    clock.now_ns = 60 * SECOND
    with AuditWriter(log, clock=clock, rotation=Rotation(max_age_ns=60 * SECOND)) as writer:
        writer.tend(clock.now_ns)
    assert len(archives(log)) == 1


@pytest.mark.parametrize("left", ["no file", "empty file", "torn line"])
def test_a_writer_stopped_in_the_middle_of_a_rotation_goes_on_from_the_closed_file(log: Path, left: str) -> None:
    write_rotated(log, records=8)
    last = log.read_bytes()
    log.unlink()
    head = read_head(archives(log)[-1])
    if left == "empty file":
        log.touch()
    elif left == "torn line":
        log.write_bytes(last.splitlines()[0][:40])
    with AuditWriter(log) as writer:
        writer.write("daemon.stop")
    records = records_of(log)
    assert records[0]["type"] == "log.rotated"
    assert (records[0]["seq"], records[0]["prev"]) == (head.seq + 1, head.hash)
    assert ("log.repaired" in types_of(log)) == (left == "torn line")
    assert verify(log, head).ok


def test_a_compressed_file_is_read_as_it_is(log: Path) -> None:
    head = write_rotated(log)
    for path in archives(log):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert verify(log, head).ok
    log.unlink()
    with AuditWriter(log) as writer:
        assert writer.head.seq > 0
    assert verify(log).ok


def test_a_file_and_its_compressed_copy_are_one(log: Path) -> None:
    head = write_rotated(log)
    first = archives(log)[0]
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes()))
    assert archives(log)[0] == first
    assert verify(log, head).ok


def test_a_file_that_is_missing_is_found(log: Path) -> None:
    write_rotated(log)
    archives(log)[1].unlink()
    report = verify(log)
    assert {problem.kind for problem in report.problems} == {ProblemKind.CHAIN, ProblemKind.SEQ}
    assert {problem.file for problem in report.problems} == {archives(log)[1].name}


def test_a_first_file_that_is_missing_is_found_unless_the_rest_was_asked_for(log: Path) -> None:
    head = write_rotated(log)
    archives(log)[0].unlink()
    assert not verify(log).ok
    assert verify_files(log_files(log), head, partial=True).ok
    middle = archives(log)[1]
    assert verify_files([middle], partial=True).ok
    changed = middle.read_bytes().replace(b'"size_bytes":4', b'"size_bytes":5', 1)
    middle.write_bytes(changed)
    assert not verify_files([middle], partial=True).ok


def test_a_torn_line_is_a_crash_only_at_the_end_of_the_last_file(log: Path) -> None:
    write_rotated(log)
    with log.open("ab") as file:
        file.write(b'{"torn')
    assert verify(log).ok
    closed = archives(log)[0]
    closed.write_bytes(closed.read_bytes()[:-1])
    (first, *_) = verify(log).problems
    assert (first.kind, first.file) == (ProblemKind.BROKEN, closed.name)


def test_two_files_exchanged_are_found(log: Path) -> None:
    write_rotated(log)
    one, two, *_ = archives(log)
    one_bytes = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(one_bytes)
    assert not verify(log).ok


def test_a_file_that_cannot_be_put_aside_grows_on_and_says_so(log: Path) -> None:
    with AuditWriter(log, rotation=Rotation(max_bytes=1)) as writer:
        (log.parent / "audit.000000000001.jsonl").write_text("")
        writer.write("witness.alloc", **EVENT)
        for _ in range(3):
            writer.write("witness.alloc", **EVENT)
    assert types_of(log) == ["witness.alloc", "seal", "reconcile", *["witness.alloc"] * 3]
    assert "could not be rotated" in records_of(log)[2]["reason"]
    assert verify_files([log]).ok


def test_the_head_is_that_of_the_last_file_that_has_a_record(log: Path) -> None:
    head = write_rotated(log)
    assert read_head(log) == head
    log.write_bytes(b"")
    assert read_head(log) == EMPTY_HEAD


def test_a_log_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=f"{tmp_path}/audit.jsonl"):
        log_files(tmp_path)


def test_other_files_beside_the_log_are_not_of_it(log: Path) -> None:
    write_rotated(log, records=3, max_bytes=10**6)
    for name in ("audit.1.jsonl", "audit.copy.jsonl", "audit.000000000007.jsonl.torn", "audit.jsonl.lock"):
        (log.parent / name).write_text("not a record\n")
    assert log_files(log) == [log]


def test_a_thread_may_bring_it_to_the_disk_while_it_is_rotated(log: Path) -> None:
    writer = AuditWriter(log, rotation=Rotation(max_bytes=600), inline_sync=False)
    done = threading.Event()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def sync() -> None:
        while not done.is_set():
            writer.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    for _ in range(300):
        writer.write("decision.denied", container={"id": "c"}, reason="limit", waited_ns=0, **EVENT_ASKED)
    done.set()
    thread.join()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors, "no file is left open"
    writer.close()
    assert writer.lost == 0
    assert len(archives(log)) > 100
    assert verify(log).ok


EVENT_ASKED: dict[str, Any] = {"process": {"pid": 1, "start_ticks": 2}, "size_bytes": 4}


def test_processes_that_share_the_work_find_what_one_finds(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convgpu.audit.verify._PIECE_BYTES", 4000)
    head = write_rotated(log, records=200, max_bytes=30_000)
    content = log.read_bytes()
    spoilt = [
        content,
        content.replace(b'"size_bytes":4', b'"size_bytes":5', 1),
        content[: len(content) // 2] + content[len(content) // 2 + 400 :],
        b"garbage\n" + content,
        content[:-20],
    ]
    for number, each in enumerate(spoilt):
        log.write_bytes(each)
        alone = verify_files(log_files(log), head, processes=1)
        shared = verify_files(log_files(log), head, processes=2)
        assert alone == shared
        assert alone.ok == (number == 0)
        monkeypatch.setattr("convgpu.audit.verify._PIECE_BYTES", 10**9)
        whole = verify_files(log_files(log), head, processes=1)
        assert whole == alone, "where a file is cut makes no difference"
        monkeypatch.setattr("convgpu.audit.verify._PIECE_BYTES", 4000)


def test_progress_ends_at_the_size_of_all_files(log: Path) -> None:
    write_rotated(log)
    files = log_files(log)
    seen: list[int] = []
    verify_files(files, on_bytes=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == sum(path.stat().st_size for path in files)


def test_sealing_alone_rotates_nothing(log: Path) -> None:
    clock = HandClock()
    with AuditWriter(log, clock=clock, sealing=Sealing(interval_ns=10 * SECOND)) as writer:
        writer.write("witness.alloc", **EVENT)
        clock.now_ns = 9 * SECOND
        writer.tend(clock.now_ns)
        assert types_of(log) == ["witness.alloc"]
        clock.now_ns = 10 * SECOND
        writer.tend(clock.now_ns)
        clock.now_ns = 100 * SECOND
        writer.tend(clock.now_ns)
        assert types_of(log) == ["witness.alloc", "seal"], "what is sealed is not sealed again"
        writer.write("witness.alloc", **EVENT)
    assert types_of(log) == ["witness.alloc", "seal", "witness.alloc", "seal"]
    assert [record.get("reason") for record in records_of(log)] == [None, "interval", None, "stop"]
    assert archives(log) == []
