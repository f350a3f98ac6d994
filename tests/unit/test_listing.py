# SPDX-License-Identifier: Apache-2.0
"""Every listing has the same four formats, and one schema."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convgpu.cli.listing import Listing
from convgpu.cli.main import main
from convgpu.cli.options import FormatOption
from convgpu.cli.output import FORMATS, RecordStream
from convgpu.core.units import GIB
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import container_status, device_usage, sample_snapshot

ROOT = Path(__file__).resolve().parents[2]
LISTINGS = {
    ("ps",),
    ("queue",),
    ("trace",),
    ("events",),
    ("limit", "get"),
    ("limit", "ls"),
    ("config", "show"),
    ("doctor",),
    ("simulate",),
    ("replay",),
    ("sim", "status"),
}
SERVED = [("ps",), ("queue",), ("limit", "get", "gamma"), ("limit", "ls"), ("config", "show"), ("trace",), ("events",)]


@dataclass(frozen=True)
class Part:
    name: str
    size_bytes: int | None


@dataclass(frozen=True)
class Inner:
    of_all: int = 7


@dataclass(frozen=True)
class Whole:
    name: str
    size_bytes: int
    good: bool
    words: tuple[str, ...]
    counts: dict[str, int]
    inner: Inner
    parts: tuple[Part, ...] = ()
    others: tuple[Part, ...] = ()


@pytest.fixture
def convgpu(tmp_path):
    def invoke(*arguments):
        return CliRunner(env={"CONVGPU_RUN_DIR": str(tmp_path)}).invoke(main, arguments, prog_name="convgpu")

    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        invoke.server = fake
        yield invoke


def commands_with_a_format():
    def walk(command, words):
        for parameter in command.params:
            if "--format" in parameter.opts:
                yield words, parameter
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                yield from walk(command.get_command(context, name), (*words, name))

    return dict(walk(main, ()))


def test_every_listing_has_the_one_option_with_all_formats():
    found = commands_with_a_format()
    assert set(found) >= LISTINGS
    for words, option in found.items():
        assert isinstance(option, FormatOption), words
        assert option.listings, words
        assert set(FORMATS) <= set(option.type.choices), words
        assert all(len(set(listing.columns)) == len(listing.columns) > 0 for listing in option.listings), words


@pytest.mark.parametrize("words", SERVED, ids=" ".join)
def test_json_jsonl_and_csv_say_the_same(convgpu, words):
    listed = json.loads(convgpu(*words, "--format", "json").stdout)
    records = listed if isinstance(listed, list) else [listed]
    lines = convgpu(*words, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == records
    option = commands_with_a_format()[tuple(word for word in words if word != "gamma")]
    listing = option.listings[0]
    heading, *rows = csv.reader(convgpu(*words, "--format", "csv").stdout.splitlines())
    assert tuple(heading) == listing.columns
    parts = [record[listing.parts] or [{}] if listing.parts else [{}] for record in records]
    assert len(rows) == sum(map(len, parts))
    flat = [{**record, **part} for record, own in zip(records, parts, strict=True) for part in own]
    for row, values in zip(rows, flat, strict=True):
        for name, text in zip(heading, row, strict=True):
            if isinstance(values[name], int) and not isinstance(values[name], bool):
                assert int(text) == values[name]
            elif values[name] is None:
                assert text == ""


def test_csv_of_containers_has_a_line_for_each_device_and_one_for_those_without(convgpu):
    two = container_status(
        "two", device_usage(GIB, 5 * GIB), replace(device_usage(None, 5 * GIB), index=1, uuid="GPU-1")
    )
    none = container_status("none")
    convgpu.server.snapshot = replace(convgpu.server.snapshot, containers=(two, none))
    rows = list(csv.DictReader(convgpu("ps", "--format", "csv").stdout.splitlines()))
    assert [(row["name"], row["index"], row["used_bytes"]) for row in rows] == [
        ("two", "0", str(GIB)),
        ("two", "1", ""),
        ("none", "", ""),
    ]


def test_programs_get_no_sentences(convgpu):
    assert "simulated" in convgpu("ps").stderr
    for output_format in ("json", "jsonl", "csv"):
        assert convgpu("ps", "--format", output_format).stderr == ""


def test_a_record_is_laid_flat_by_the_same_rules_everywhere():
    listing = Listing(Whole, parts="parts")
    assert listing.columns == ("good", "words", "counts", "of_all", "name", "size_bytes")
    whole = Whole("w", 1, True, ("a", "b"), {"x": 1, "y": 2}, Inner(), (Part("p", 3), Part("q", None)), (Part("o", 9),))
    assert list(listing.rows(whole)) == [
        ("true", "a b", "3", "7", "p", "3"),
        ("true", "a b", "3", "7", "q", ""),
    ]
    assert list(listing.rows(replace(whole, parts=()))) == [("true", "a b", "3", "7", "w", "1")]
    assert Listing(Whole, parts="parts", shared=("words",)).columns == ("words", "name", "size_bytes")


def test_a_cell_with_a_comma_or_a_line_in_it_is_quoted(capsys):
    with RecordStream(Listing(Part), "csv") as stream:
        stream.write([Part('a,"b"\nc', 1)])
    assert list(csv.reader(capsys.readouterr().out.splitlines(keepends=True))) == [
        ["name", "size_bytes"],
        ['a,"b"\nc', "1"],
    ]


@pytest.mark.parametrize("batches", [[], [[Part("a", 1)]], [[Part("a", 1)], [], [Part("b", 2), Part("c", 3)]]])
def test_a_stream_of_json_is_one_array_however_it_ends(capsys, batches):
    def tell():
        with RecordStream(Listing(Part), "json") as stream:
            for batch in batches:
                stream.write(batch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell()
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told] == [part.name for batch in batches for part in batch]


def test_the_reference_is_up_to_date():
    subprocess.run([sys.executable, ROOT / "tools" / "reference.py", "--check"], check=True)
