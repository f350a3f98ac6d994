# SPDX-License-Identifier: Apache-2.0
"""The verifier's verdicts, one by one; tests/property/test_audit_tampering.py tries every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.audit.chain import EMPTY_HEAD, GENESIS, Head, canonical_bytes, join_line, link
from convgpu.audit.verify import KEPT_PROBLEMS, ProblemKind, VerifyReport, verify
from convgpu.errors import AuditError


def line(seq: int, prev: str, **more: object) -> tuple[bytes, str]:
    record = {"v": 1, "seq": seq, "ts": f"t{seq}", "type": "daemon.stop", "msg": "", "prev": prev, **more}
    canonical = canonical_bytes(record)
    return join_line(canonical, link(prev, canonical)), link(prev, canonical)


def log_of(records: int) -> tuple[list[bytes], list[Head]]:
    lines, heads, prev = [], [], GENESIS
    for seq in range(1, records + 1):
        text, prev = line(seq, prev)
        lines.append(text)
        heads.append(Head(seq, prev))
    return lines, heads


def kinds(report: VerifyReport) -> list[tuple[int, ProblemKind]]:
    return [(problem.line, problem.kind) for problem in report.problems]


LINES, HEADS = log_of(5)


def test_a_good_log_is_accepted_and_described() -> None:
    report = verify(LINES)
    assert report == VerifyReport(True, 5, 1, 5, "t1", "t5", HEADS[4], 0, 0, ())


def test_an_empty_log_is_good() -> None:
    report = verify([])
    assert report.ok
    assert (report.first_seq, report.last_ts, report.head) == (None, None, EMPTY_HEAD)


def test_a_head_kept_earlier_is_found_in_a_log_that_has_grown() -> None:
    for head in (*HEADS, EMPTY_HEAD):
        assert verify(LINES, head).ok
        assert verify(LINES, head.hash).ok


@pytest.mark.parametrize("expect", [HEADS[4], HEADS[4].hash, HEADS[3]])
def test_a_truncated_log_is_found_by_a_head_kept_elsewhere(expect: Head | str) -> None:
    assert verify(LINES[:3]).ok, "the chain alone cannot tell"
    assert kinds(verify(LINES[:3], expect)) == [(3, ProblemKind.HEAD)]


def test_the_right_hash_at_the_wrong_place_is_no_head() -> None:
    assert not verify(LINES, Head(4, HEADS[4].hash)).ok


def test_a_torn_last_line_is_a_crash_and_no_problem() -> None:
    report = verify([*LINES[:3], LINES[3][:-1]])
    assert report.ok
    assert (report.records, report.torn_bytes) == (3, len(LINES[3]) - 1)


def test_a_torn_line_in_the_middle_is_a_problem() -> None:
    assert kinds(verify([*LINES[:2], LINES[2][:30], *LINES[3:]])) == [
        (3, ProblemKind.BROKEN),
        (4, ProblemKind.CHAIN),
        (4, ProblemKind.SEQ),
    ]


def test_one_change_is_one_finding() -> None:
    changed = LINES[2].replace(b'"ts":"t3"', b'"ts":"t4"')
    report = verify([*LINES[:2], changed, *LINES[3:]])
    assert kinds(report) == [(3, ProblemKind.HASH)]
    assert (report.records, report.last_seq) == (4, 5)


def test_a_removed_line_is_found_where_it_is_missing() -> None:
    assert kinds(verify([*LINES[:2], *LINES[3:]])) == [(3, ProblemKind.CHAIN), (3, ProblemKind.SEQ)]


def test_a_log_that_does_not_begin_at_its_beginning_is_found() -> None:
    assert kinds(verify(LINES[1:])) == [(1, ProblemKind.CHAIN), (1, ProblemKind.SEQ)]


@pytest.mark.parametrize(
    "foreign",
    [
        b"\n",
        b"hello\n",
        b"\xff\xfe\n",
        b'{"hash":"' + b"0" * 64 + b'"}\n',
        b"[" * 100_000 + b"\n",
        join_line(b'{"prev":1,"seq":true,"ts":"","v":1}', "0" * 64),
    ],
)
def test_a_foreign_line_is_broken(foreign: bytes) -> None:
    assert kinds(verify([*LINES[:2], foreign, *LINES[2:]])) == [(3, ProblemKind.BROKEN)]


def test_a_valid_hash_over_bytes_that_are_not_canonical_is_broken() -> None:
    canonical = b'{"v":1, "seq":1,"ts":"t1","prev":"' + GENESIS.encode() + b'"}'
    assert kinds(verify([join_line(canonical, link(GENESIS, canonical))])) == [(1, ProblemKind.BROKEN)]


def test_another_format_is_not_guessed_at() -> None:
    text, _ = line(1, GENESIS, v=2)
    assert kinds(verify([text])) == [(1, ProblemKind.VERSION)]


def test_a_flood_of_problems_is_counted_and_not_kept() -> None:
    report = verify([b"x\n"] * (KEPT_PROBLEMS + 50))
    assert (len(report.problems), report.problem_count) == (KEPT_PROBLEMS, KEPT_PROBLEMS + 50)


def test_a_file_is_read_and_a_missing_one_said(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with pytest.raises(AuditError, match="cannot read the audit log"):
        verify(path)
    path.write_bytes(b"".join(LINES))
    assert verify(path) == verify(str(path)) == verify(LINES)
