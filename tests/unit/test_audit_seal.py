# SPDX-License-Identifier: Apache-2.0
"""Seals that are signed: what somebody without the key can no longer do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convgpu.audit import keys
from convgpu.audit.chain import GENESIS, canonical_bytes, join_line, link
from convgpu.audit.keys import generate, load_public_key, load_signer
from convgpu.audit.seal import Sealing, check_seal
from convgpu.audit.span import ProblemKind
from convgpu.audit.verify import verify
from convgpu.audit.writer import AuditWriter
from convgpu.errors import AuditError, EnvironmentMissingError, UsageError

EVENT: dict[str, Any] = {"process": {"pid": 1, "start_ticks": 2}, "source": "driver", "size_bytes": 4}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    generate(tmp_path / "audit.key")
    return tmp_path / "audit.key"


def public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


def write(log: Path, key: Path | None, records: int = 4) -> list[bytes]:
    sealing = Sealing(interval_ns=10**18, signer=None if key is None else load_signer(key))
    with AuditWriter(log, sealing=sealing) as writer:
        for _ in range(records):
            writer.write("witness.alloc", **EVENT)
    return log.read_bytes().splitlines(keepends=True)


def chained(records: list[dict[str, Any]]) -> list[bytes]:
    """Write records anew, as somebody does who has the log and not the key."""
    lines, prev = [], GENESIS
    for seq, record in enumerate(records, start=1):
        canonical = canonical_bytes({**record, "seq": seq, "prev": prev})
        prev = link(prev, canonical)
        lines.append(join_line(canonical, prev))
    return lines


def test_a_log_with_signed_seals_verifies_with_the_public_key(tmp_path: Path, key: Path) -> None:
    log = tmp_path / "audit.jsonl"
    write(log, key)
    report = verify(log, key_file=public(key))
    assert report.ok
    assert (report.seals, report.signed_seals, report.sealed_seq) == (1, 1, 5)
    seal = json.loads(log.read_bytes().splitlines()[-1])
    assert seal["key_id"] == load_public_key(public(key)).key_id
    assert verify(log).ok, "and without it"


def test_a_log_written_anew_without_the_key_is_found(tmp_path: Path, key: Path) -> None:
    log = tmp_path / "audit.jsonl"
    lines = write(log, key)
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["hash"]
    records[1]["size_bytes"] = 1
    log.write_bytes(b"".join(chained(records)))
    assert verify(log).ok, "the chain alone cannot tell"
    (problem,) = verify(log, key_file=public(key)).problems
    assert (problem.kind, problem.message) == (ProblemKind.SEAL, "record 5: the signature of the seal does not fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seal: seal.pop("signature"), "not signed"),
        (lambda seal: seal.update(signature="00" * 64), "does not fit"),
        (lambda seal: seal.update(signature="zz"), "does not fit"),
        (lambda seal: seal.update(key_id="0" * 64), "another key"),
        (lambda seal: seal.update(reason="rotation"), "does not fit"),
        (lambda seal: seal.update(ts="2026-01-01T00:00:00.000000000Z"), "does not fit"),
    ],
)
def test_every_field_of_a_seal_is_under_its_signature(tmp_path: Path, key: Path, change: Any, message: str) -> None:
    lines = write(tmp_path / "audit.jsonl", key)
    seal = json.loads(lines[-1])
    assert check_seal(seal, load_public_key(public(key))) is None
    change(seal)
    assert message in str(check_seal(seal, load_public_key(public(key))))


def test_an_unsigned_seal_or_none_is_not_enough_for_whoever_gives_a_key(tmp_path: Path, key: Path) -> None:
    log = tmp_path / "audit.jsonl"
    write(log, None)
    assert [problem.message for problem in verify(log, key_file=public(key)).problems] == [
        "record 5: the seal is not signed"
    ]
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    (problem,) = verify(log, key_file=public(key)).problems
    assert "no seal" in problem.message


def test_another_key_is_not_this_one(tmp_path: Path, key: Path) -> None:
    log = tmp_path / "audit.jsonl"
    write(log, key)
    generate(tmp_path / "other.key")
    (problem,) = verify(log, key_file=tmp_path / "other.key.pub").problems
    assert "another key" in problem.message


def test_a_key_is_its_owner_s_alone_and_never_overwritten(tmp_path: Path, key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="never overwritten"):
        generate(key)
    key.chmod(0o640)
    with pytest.raises(AuditError, match="can be read by others") as refused:
        load_signer(key)
    assert refused.value.next_step == f"chmod 600 {key}"


def test_what_is_no_key_is_said(tmp_path: Path, key: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("hello")
    bad.chmod(0o600)
    with pytest.raises(AuditError, match="is not a private Ed25519 key"):
        load_signer(bad)
    with pytest.raises(AuditError, match="is not a public Ed25519 key"):
        load_public_key(key)
    with pytest.raises(AuditError, match="cannot read the key"):
        load_public_key(tmp_path / "none")


def test_without_the_package_it_is_said_how_to_get_it(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissingError, match="cryptography") as refused:
        load_signer(key)
    assert "convgpu[sign]" in str(refused.value.next_step)
