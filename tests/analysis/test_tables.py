# SPDX-License-Identifier: Apache-2.0
"""The rows of the tables, and that every format gives them back."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyarrow import parquet
from scene import ALPHA, BETA, GPU, SECOND, Log, at, scene

from convgpu.analysis import parquet as parquet_module
from convgpu.analysis.columns import ColumnKind, Hidden
from convgpu.analysis.export import export, rows_of
from convgpu.analysis.pseudonyms import Pseudonyms
from convgpu.analysis.tables import TABLES
from convgpu.audit.records import RECORD_TYPES
from convgpu.cli.main import main
from convgpu.core.units import GIB
from convgpu.errors import EnvironmentMissingError

Tables = dict[str, list[dict[str, Any]]]


def records(log: Log) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.lines]


def tables(log: Log, pseudonyms: Pseudonyms | None = None) -> Tables:
    made: Tables = {name: [] for name in TABLES}
    for table, row in rows_of(records(log), pseudonyms):
        made[table].append(dict(zip((column.name for column in TABLES[table].columns), row, strict=True)))
    return made


def some(row: dict[str, Any], **wanted: Any) -> None:
    assert {name: row[name] for name in wanted} == wanted


def test_every_record_is_an_event() -> None:
    made = tables(scene())
    assert [row["seq"] for row in made["events"]] == list(range(1, len(scene().lines) + 1))
    some(
        made["events"][3], type="decision.granted", time_ns=at(10), gpu=0, pid=7, size_bytes=GIB, container_id="a" * 64
    )


def test_a_stay_has_its_begin_and_end_and_one_that_lasts_has_none() -> None:
    alpha, beta = tables(scene())["containers"]
    some(alpha, name="alpha", stay=1, seen_ns=at(0), gone_ns=at(100), exit_code=0, priority=2, wait_limit_ns=None)
    some(beta, name="beta", seen_ns=at(20), gone_ns=None)


def test_a_container_that_starts_again_has_a_second_stay() -> None:
    log = scene()
    log.container(120, ALPHA)
    stays = [(row["name"], row["stay"], row["gone_ns"]) for row in tables(log)["containers"]]
    assert sorted(stays, key=str) == sorted([("alpha", 1, at(100)), ("beta", 1, None), ("alpha", 2, None)], key=str)


def test_a_wait_has_its_begin_and_end() -> None:
    (row,) = tables(scene())["suspensions"]
    some(
        row, container_id="b" * 64, began_ns=at(30), arrived_ns=at(30), ended_ns=at(70), ended_by="resumed", position=1
    )


def test_a_wait_that_a_restart_ended_and_one_that_lasts() -> None:
    log = scene()
    log.decide(110, "suspended", "5", GIB, container=BETA)
    log.start(115)
    log.decide(116, "suspended", "1", GIB, container=BETA, arrived_ns=110 * SECOND)
    ended = [
        (row["began_ns"], row["ended_ns"], row["ended_by"], row["arrived_ns"]) for row in tables(log)["suspensions"]
    ]
    assert ended[1:] == [(at(110), at(115), "daemon.start", at(110)), (at(116), None, None, at(110))]


def test_what_is_held_over_time() -> None:
    held = [(row["time_ns"], row["container_id"][0], row["held_bytes"] // GIB) for row in tables(scene())["holdings"]]
    assert held == [(at(10), "a", 1), (at(50), "a", 4), (at(70), "b", 7), (at(100), "a", 0)]


def test_what_a_restarted_daemon_does_not_find_is_gone() -> None:
    log = scene()
    log.start(110)
    log.container(110, BETA, restored=True)
    log.process(110, container=BETA, process={"pid": 8, "start_ticks": 70}, gpu=GPU, used_bytes=5 * GIB)
    log.process(111, container=ALPHA)
    log.decide(112, "granted", "1", GIB, container=ALPHA)
    held = [(row["time_ns"], row["container_id"][0], row["held_bytes"] // GIB) for row in tables(log)["holdings"]]
    assert held[4:] == [(at(110), "b", 5), (at(112), "a", 1)]
    lost = scene()
    lost.start(110)
    lost.process(111, container=ALPHA, process={"pid": 9, "start_ticks": 1})
    lost.decide(112, "granted", "1", GIB, container=ALPHA)
    held = [(row["time_ns"], row["container_id"][0], row["held_bytes"] // GIB) for row in tables(lost)["holdings"]]
    assert sorted(held[4:]) == [(at(112), "a", 1), (at(112), "b", 0)]


def test_decisions_limits_runs_losses_and_notes() -> None:
    made = tables(scene())
    assert [row["decision"] for row in made["decisions"]] == ["granted", "suspended", "granted", "resumed", "denied"]
    some(made["decisions"][4], reason="limit", used_bytes=7 * GIB, size_bytes=9 * GIB, uid="1000", comm="python3")
    some(made["limits"][0], change="seen", limit_bytes=4 * GIB, source="label", gpu=0)
    some(made["runs"][0], started_ns=at(0), stopped_ns=None, algorithm="fifo", seed=3, safe=True)
    some(made["capacities"][0], capacity_bytes=10 * GIB, total_bytes=10 * GIB, gpu_id="GPU-0", gpu=0)
    some(made["losses"][0], count=3, time_ns=at(90))
    some(made["notes"][0], text="half way: alpha is large", by_uid="1000", container_id="a" * 64)


def test_limits_of_groups_are_rows_of_their_own() -> None:
    limits = [{"group": "lab/team", "gpu": "GPU-0", "index": 0, "limit_bytes": 5, "old_limit_bytes": None}]
    log = Log().start()
    log.add(1, "group.limits", limits=limits, by_uid=0)
    log.container(2, ALPHA, group="lab/team")
    log.decide(3, "suspended", "1", GIB, container=ALPHA, group="lab")
    made = tables(log)
    some(made["group_limits"][0], group_name="lab/team", gpu_id="GPU-0", gpu=0, limit_bytes=5, by_uid="0")
    assert (made["containers"][0]["group_name"], made["suspensions"][0]["group_name"]) == ("lab/team", "lab")
    hidden = tables(log, Pseudonyms(b"k" * 16))
    assert hidden["group_limits"][0]["group_name"] == hidden["containers"][0]["group_name"] != "lab/team"


def test_a_start_that_waited_is_a_row() -> None:
    log = Log().start()
    log.add(1, "start.suspended", container=ALPHA, guarantee_bytes=GIB)
    log.add(4, "start.admitted", container=ALPHA, waited_ns=3 * SECOND)
    log.add(5, "start.suspended", container=BETA, guarantee_bytes=GIB)
    first, second = tables(log)["starts"]
    some(first, began_ns=at(1), ended_ns=at(4), decision="admitted", waited_ns=3 * SECOND)
    some(second, began_ns=at(5), ended_ns=None, decision=None)


def test_a_finding_is_one_row_from_its_begin_to_its_end() -> None:
    log = Log().start()
    figures = {"used_bytes": 1, "witness_bytes": 2, "nvml_bytes": 3, "processes": []}
    about = {"finding": "bypass", "gpu": GPU, "container": ALPHA, **figures}
    log.add(1, "finding.raised", reason="more than granted", action="log", **about)
    log.add(9, "finding.cleared", reason="equal again", lasted_ns=8 * SECOND, **about)
    (row,) = tables(log)["findings"]
    some(
        row, finding="bypass", raised_ns=at(1), cleared_ns=at(9), nvml_bytes=3, action="log", reason="more than granted"
    )


@pytest.mark.parametrize("name", RECORD_TYPES)
def test_a_record_of_any_type_can_be_laid_flat(name: str) -> None:
    from convgpu.audit.fields import EVENT_FIELDS, Field, Kind

    def example(field: Field) -> Any:
        parts = {part: example(inner) for part, inner in field.parts.items()}
        plain: dict[Kind, Any] = {Kind.INTEGER: 7, Kind.BOOLEAN: True, Kind.STRING: "w", Kind.STRINGS: ["a"]}
        return plain.get(field.kind, [parts] if field.kind is Kind.OBJECTS else parts)

    kind = RECORD_TYPES[name]
    for wanted in (kind.required, kind.required | kind.optional):
        log = Log().start().add(1, name, **{each: example(EVENT_FIELDS[each]) for each in wanted})
        assert len(tables(log)["events"]) == 2


# Every format.


def read_csv(folder: Path) -> Tables:
    kinds = {name: {column.name: column.kind for column in table.columns} for name, table in TABLES.items()}

    def value(text: str, kind: ColumnKind) -> Any:
        if text == "":
            return None
        return {ColumnKind.INTEGER: int, ColumnKind.TEXT: str, ColumnKind.BOOLEAN: lambda word: word == "true"}[kind](
            text
        )

    read: Tables = {}
    for name in TABLES:
        with (folder / f"{name}.csv").open(newline="") as file:
            read[name] = [
                {key: value(text, kinds[name][key]) for key, text in row.items()} for row in csv.DictReader(file)
            ]
    return read


def read_sqlite(file: Path) -> Tables:
    database = sqlite3.connect(file)
    database.row_factory = sqlite3.Row
    read = {name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")] for name in TABLES}
    database.close()
    return read


def read_parquet(folder: Path) -> Tables:
    return {name: parquet.read_table(folder / f"{name}.parquet").to_pylist() for name in TABLES}


@pytest.mark.parametrize(("to", "read"), [("csv", read_csv), ("sqlite", read_sqlite), ("parquet", read_parquet)])
def test_what_is_exported_is_read_again(tmp_path: Path, to: str, read: Any) -> None:
    path = tmp_path / "out"
    log = scene().write(tmp_path)
    done = CliRunner().invoke(main, ["audit", "export", str(log), "--to", to, "-o", str(path)])
    assert done.exit_code == 0, done.stderr
    made = tables(scene())
    assert read(path) == made
    counts = dict(line.split() for line in done.stdout.splitlines()[1:])
    assert counts == {name: str(len(rows)) for name, rows in made.items()}
    assert not list(tmp_path.glob("*.part"))


def test_parquet_files_say_what_their_columns_are(tmp_path: Path) -> None:
    export(records(scene()), tmp_path / "out", "parquet")
    field = parquet.read_schema(tmp_path / "out" / "decisions.parquet").field("waited_ns")
    assert field.metadata == {b"unit": b"ns", b"meaning": b"From the request's arrival to this decision"}


def test_an_export_is_never_written_over_another(tmp_path: Path) -> None:
    log = scene().write(tmp_path)
    done = CliRunner().invoke(main, ["audit", "export", str(log), "-o", str(log)])
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert log.read_bytes() == b"".join(scene().lines)


@pytest.mark.parametrize("to", ["csv", "sqlite", "parquet"])
def test_an_export_that_fails_leaves_nothing(tmp_path: Path, to: str) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from records(scene())
        raise OSError(28, "No space left on device")

    with pytest.raises(Exception, match=r"cannot write .*No space left"):
        export(broken(), tmp_path / "out", to)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissingError, match="pyarrow") as refused:
        export(records(scene()), tmp_path / "out", "parquet")
    assert "convgpu[parquet]" in str(refused.value.next_step)


# Pseudonyms.


def test_no_name_is_left_with_pseudonyms_and_the_same_stays_the_same(tmp_path: Path) -> None:
    log = scene().write(tmp_path)
    key = tmp_path / "key"
    assert CliRunner().invoke(main, ["audit", "keygen", "--pseudonyms", str(key)]).exit_code == 0
    for to, name in (("csv", "one"), ("csv", "two"), ("sqlite", "three")):
        arguments = ["audit", "export", str(log), "--to", to, "--pseudonyms", str(key), "-o", str(tmp_path / name)]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    one, two, three = read_csv(tmp_path / "one"), read_csv(tmp_path / "two"), read_sqlite(tmp_path / "three")
    assert one == two == three
    told = json.dumps(one)
    for secret in (
        "a" * 64,
        "b" * 64,
        "alpha",
        "beta",
        "pytorch",
        "secret-image",
        "python3",
        '"1000"',
        "GPU-0",
        "half way",
    ):
        assert secret not in told, secret
    plain = tables(scene())
    assert [row["size_bytes"] for row in one["decisions"]] == [row["size_bytes"] for row in plain["decisions"]]
    assert one["decisions"][4]["reason"] == "limit", "a word stays"
    containers = {row["container_id"] for row in one["containers"]}
    assert {row["container_id"] for row in one["decisions"]} == containers, "tables can still be joined"
    assert all(each.startswith("container-") for each in containers)


def test_another_key_makes_other_pseudonyms() -> None:
    first, second = (tables(scene(), Pseudonyms(key)) for key in (b"k" * 16, b"l" * 16))
    assert first["containers"][0]["name"] != second["containers"][0]["name"]
    assert Pseudonyms(b"k" * 16).of("user", "x") != Pseudonyms(b"k" * 16).of("command", "x")


def test_every_column_that_may_name_somebody_is_hidden() -> None:
    sensitive = {
        "group_name",
        "container_id",
        "name",
        "image",
        "comm",
        "uid",
        "by_uid",
        "gpu_id",
        "text",
        "sentence",
        "reason",
        "boot_id",
    }
    for table in TABLES.values():
        for column in table.columns:
            assert (column.hidden is not None) == (column.name in sensitive | {"source", "outcome"}) or (
                table.name == "witness" and column.name in ("source", "outcome")
            ), f"{table.name}.{column.name}"
    assert {column.hidden for table in TABLES.values() for column in table.columns} == {None, *Hidden}


def test_a_key_that_is_too_short_is_no_secret(tmp_path: Path) -> None:
    log = scene().write(tmp_path)
    (tmp_path / "key").write_text("short")
    arguments = ["audit", "export", str(log), "--pseudonyms", str(tmp_path / "key"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 7
    assert "has 5 bytes" in done.stderr
