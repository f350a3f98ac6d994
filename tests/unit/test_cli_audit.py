# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit`: verify, head, query, schema, keygen, without a daemon; annotate with one."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from convgpu.audit.files import Rotation, archives
from convgpu.audit.keys import load_signer
from convgpu.audit.seal import Sealing
from convgpu.audit.writer import AuditWriter
from convgpu.cli import audit_log
from convgpu.cli.main import main
from convgpu.paths import RunPaths
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot


@pytest.fixture
def log(tmp_path):
    """A log of three records, closed; returns its path and its head."""
    path = tmp_path / "audit.jsonl"
    with AuditWriter(path) as writer:
        for number in range(3):
            writer.write("daemon.stop", msg=f"record {number}")
        head = writer.head
    return path, head


def audit(*arguments):
    return CliRunner().invoke(main, ["audit", *map(str, arguments)], prog_name="convgpu")


def verify(*arguments):
    return audit("verify", *arguments)


def test_a_whole_log_verifies_and_its_head_is_said(log):
    path, head = log
    done = verify(path)
    assert done.exit_code == 0
    assert f"{path}: 3 records, 1 to 3\n" in done.stdout
    assert f"head 3:{head.hash}" in done.stdout
    assert done.stdout.endswith("The log verifies.\n")


def test_the_head_that_is_noted_is_the_head_that_is_checked(log):
    path, head = log
    noted = audit("head", path).stdout.strip()
    assert noted == f"3:{head.hash}"
    assert json.loads(audit("head", path, "--format", "json").stdout) == {"seq": 3, "hash": head.hash}
    for form in (noted, head.hash, noted.upper()):
        assert verify(path, "--head", form).exit_code == 0
    assert verify(path, "--head", f"2:{head.hash}").exit_code == 7
    wrong = verify(path, "--head", "3:abc")
    assert wrong.exit_code == 2
    assert "convgpu audit head" in wrong.stderr


def test_a_changed_record_is_found_and_its_line_named(log):
    path, _ = log
    path.write_bytes(path.read_bytes().replace(b"record 1", b"record X"))
    done = verify(path)
    assert done.exit_code == 7
    assert "line 2:" in done.stderr
    assert "does not verify" in done.stderr
    assert "verifies" not in done.stdout
    told = verify(path, "--format", "json")
    assert told.exit_code == 7
    verdict = json.loads(told.stdout)
    assert (verdict["ok"], verdict["problems"][0]["line"], verdict["problems"][0]["kind"]) == (False, 2, "hash")


def test_a_removed_end_is_found_with_a_head_kept_elsewhere(log):
    path, head = log
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert verify(path).exit_code == 0
    done = verify(path, "--head", str(head))
    assert done.exit_code == 7
    assert "truncated or replaced" in done.stderr


def test_a_torn_last_line_is_said_and_is_no_tampering(log):
    path, _ = log
    path.write_bytes(path.read_bytes() + b'{"v":1,"se')
    done = verify(path)
    assert done.exit_code == 0
    assert "cut short (10 bytes)" in done.stdout


def test_no_log_is_an_error_with_its_name(tmp_path):
    for verb in ("verify", "head", "query"):
        done = audit(verb, tmp_path / "none.jsonl")
        assert done.exit_code == 7
        assert "none.jsonl: there is no such file" in done.stderr


def test_a_folder_is_the_log_in_it_with_all_its_files(tmp_path):
    path = tmp_path / "audit.jsonl"
    with AuditWriter(path, rotation=Rotation(max_bytes=1)) as writer:
        writer.write("daemon.stop")
        writer.write("daemon.stop")
    done = verify(tmp_path)
    assert "in 3 files" in done.stdout
    first = archives(path)[0]
    first.write_bytes(first.read_bytes().replace(b"ConvGPU stops", b"ConvGPU stopt"))
    assert f"{first.name}, line 1: record 1 was changed" in verify(tmp_path).stderr


def test_a_file_that_the_daemon_begins_meanwhile_is_no_tampering(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    writer = AuditWriter(path, rotation=Rotation(max_age_ns=0))
    writer.write("daemon.stop")
    listed = audit_log.log_files

    def stale(log):
        files = listed(log)
        if len(files) == 1:
            writer.tend(0)  # a new file begins just after they were listed
        return files

    monkeypatch.setattr(audit_log, "log_files", stale)
    done = verify(path)
    writer.close()
    assert done.exit_code == 0, done.stderr
    assert "in 2 files" in done.stdout


def test_without_a_name_it_is_the_log_that_the_configuration_names(log, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text(f'log_dir = "{tmp_path}"\n')
    monkeypatch.setenv("CONVGPU_CONFIG", str(tmp_path / "config.toml"))
    assert f"{log[0]}: 3 records" in verify().stdout
    assert audit("head").stdout.strip() == str(log[1])
    monkeypatch.setenv("CONVGPU_CONFIG", str(tmp_path / "none.toml"))
    assert "/var/log/convgpu/audit.jsonl" in verify().stderr + verify().stdout


def test_a_key_is_made_signs_and_is_checked(tmp_path):
    made = audit("keygen", tmp_path / "audit.key")
    assert made.exit_code == 0
    assert "audit.key.pub: public key" in made.stdout
    path = tmp_path / "audit.jsonl"
    with AuditWriter(path, sealing=Sealing(10**18, load_signer(tmp_path / "audit.key"))) as writer:
        writer.write("daemon.stop")
    done = verify(path, "--key", tmp_path / "audit.key.pub")
    assert done.exit_code == 0
    assert "sealed up to record 2, 0 after it (1 seals, all signed)" in done.stdout
    again = audit("keygen", tmp_path / "audit.key")
    assert again.exit_code == 2
    assert "never overwritten" in again.stderr


def test_a_key_for_pseudonyms_is_its_owner_s(tmp_path):
    assert audit("keygen", "--pseudonyms", tmp_path / "study.key").exit_code == 0
    assert (tmp_path / "study.key").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "study.key").read_text().strip()) == 64


PROCESS = {"pid": 4711, "start_ticks": 9, "comm": "python3", "uid": 1000}
GPUS = [{"id": "GPU-a", "index": 0}, {"id": "GPU-b", "index": 1}]


@pytest.fixture
def long_log(tmp_path):
    """Denials and grants of two containers on two devices."""
    path = tmp_path / "audit.jsonl"
    with AuditWriter(path, rotation=Rotation(max_bytes=3000)) as writer:
        for number in range(6):
            about = {
                "container": {"id": f"{number % 2:064x}", "name": ("alpha", "beta")[number % 2], "image": "i"},
                "process": PROCESS | {"pid": 4711 + number},
                "gpu": GPUS[number // 3],
                "size_bytes": 2**20 * number,
                "waited_ns": 0,
            }
            if number % 3:
                writer.write("decision.granted", **about)
            else:
                writer.write("decision.denied", reason="limit", **about)
        writer.write("note", text="line one\nline two\x1b[31m")
    return path


def found(path, *options):
    done = audit("query", path, *options, "--format", "jsonl")
    assert done.exit_code == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [record for record in records if record["type"].startswith(("decision", "note"))]


def pids(path, *options):
    return [record["pid"] - 4711 for record in found(path, *options)]


def test_records_are_found_by_type_container_gpu_and_process(long_log):
    assert pids(long_log, "--type", "decision") == [0, 1, 2, 3, 4, 5]
    assert pids(long_log, "--type", "decision.denied") == [0, 3]
    assert pids(long_log, "--container", "beta") == [1, 3, 5]
    assert pids(long_log, "--container", "0" * 63 + "1") == [1, 3, 5]
    assert pids(long_log, "--gpu", "1") == pids(long_log, "--gpu", "GPU-b") == [3, 4, 5]
    assert pids(long_log, "--process", "4713") == [2]
    assert pids(long_log, "--process", "python3", "--last", 2) == [4, 5]
    assert pids(long_log, "--reason", "limit", "--container", "alpha") == [0]


def test_records_are_found_by_time(long_log):
    ts = [record["ts"] for record in found(long_log, "--type", "decision")]
    assert pids(long_log, "--type", "decision", "--since", "1h") == [0, 1, 2, 3, 4, 5]
    assert found(long_log, "--since", "2099-01-01") == []
    assert found(long_log, "--until", "2001-01-01T00:00:00Z") == []
    middle = ts[3][:26] + "Z"
    split = (
        pids(long_log, "--type", "decision", "--until", middle),
        pids(long_log, "--type", "decision", "--since", middle),
    )
    assert split == ([0, 1, 2], [3, 4, 5])
    assert audit("query", long_log, "--since", "noon").exit_code == 2
    assert "did you mean 'decision.denied'" in audit("query", long_log, "--type", "decision.denyed").stderr


def test_all_formats_say_the_same_and_raw_is_the_log_itself(long_log):
    lines = [json.loads(line) for line in audit("query", long_log, "--format", "jsonl").stdout.splitlines()]
    assert json.loads(audit("query", long_log, "--format", "json").stdout) == lines
    rows = list(csv.DictReader(audit("query", long_log, "--format", "csv").stdout.splitlines(keepends=True)))
    assert [int(row["seq"]) for row in rows] == [line["seq"] for line in lines]
    raw = audit("query", long_log, "--format", "raw").stdout_bytes
    assert raw == b"".join(path.read_bytes() for path in [*archives(long_log), long_log])


def test_a_record_cannot_move_the_terminal_s_cursor(long_log):
    told = audit("query", long_log, "--type", "note").stdout
    assert "note: line one line two [31m" in told
    assert "\x1b" not in told


def test_a_line_that_is_no_record_is_said_by_query(long_log):
    with long_log.open("ab") as file:
        file.write(b"hello\n")
    done = audit("query", long_log)
    assert done.exit_code == 7
    assert "the line 'hello...' is not an audit record" in done.stderr


def test_a_note_goes_through_the_daemon(tmp_path):
    paths = RunPaths(tmp_path)
    with FakeControlServer(sample_snapshot(), paths.control_socket) as server:
        run_dir = ("--run-dir", str(tmp_path))
        done = audit("annotate", "begin of run 3", "--container", "alpha", *run_dir)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith("record 1, head 1:")
        assert [(note.text, note.container) for note in server.notes] == [("begin of run 3", "alpha")]
        assert audit("annotate", "x", "--container", "nobody", *run_dir).exit_code == 4
        empty = audit("annotate", "  ", *run_dir)
        assert empty.exit_code == 2
        assert "empty" in empty.stderr
        assert audit("annotate", "x" * 5000, *run_dir).exit_code == 2


def test_help_of_every_verb_has_examples():
    for verb in ("verify", "head", "query", "export", "annotate", "keygen", "schema"):
        done = audit(verb, "--help")
        assert done.exit_code == 0
        assert f"convgpu audit {verb}" in done.stdout.partition("Example")[2], verb
