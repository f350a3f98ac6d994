# SPDX-License-Identifier: Apache-2.0
"""The published schema is that of the code, and refuses what the writer refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from convgpu.audit.builder import build_record
from convgpu.audit.chain import GENESIS
from convgpu.audit.fields import COMMON_FIELDS, EVENT_FIELDS, Field, Kind
from convgpu.audit.records import RECORD_TYPES
from convgpu.audit.schema import schema
from convgpu.cli.main import main

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "audit-schema.json"
VALIDATOR = Draft202012Validator(schema())
EXAMPLES: dict[Kind, Any] = {
    Kind.INTEGER: 7,
    Kind.BOOLEAN: True,
    Kind.STRING: "word",
    Kind.STRINGS: ["a"],
    Kind.TEXT_MAP: {"a": "b"},
    Kind.COUNT_MAP: {"21": 3},
}


class StoppedClock:
    boot_id = "00000000-0000-0000-0000-000000000000"

    def wall_ns(self) -> int:
        return 1_769_860_800_000_000_001

    def monotonic_ns(self) -> int:
        return 5


def example(field: Field) -> Any:
    if field.kind in (Kind.OBJECT, Kind.OBJECTS):
        whole = {name: example(part) for name, part in field.parts.items()}
        return whole if field.kind is Kind.OBJECT else [whole]
    return EXAMPLES[field.kind]


def record(name: str, *, least: bool = False) -> dict[str, Any]:
    record_type = RECORD_TYPES[name]
    wanted = record_type.required if least else record_type.required | record_type.optional
    fields = {each: example(EVENT_FIELDS[each]) for each in wanted}
    _, built = build_record(name, fields, msg=None, seq=1, prev=GENESIS, clock=StoppedClock())
    return {**built, "hash": "0" * 64}


def problems(value: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(value)]


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


def test_the_published_schema_is_current() -> None:
    printed = CliRunner().invoke(main, ["audit", "schema"]).stdout
    assert json.loads(printed) == schema()
    assert PUBLISHED.read_text() == printed, "run python tools/reference.py"


@pytest.mark.parametrize("name", RECORD_TYPES)
def test_every_type_is_valid_with_the_least_and_the_most(name: str) -> None:
    assert problems(record(name)) == []
    assert problems(record(name, least=True)) == []


@pytest.mark.parametrize("name", RECORD_TYPES)
def test_what_a_type_must_have_is_missed(name: str) -> None:
    for field in RECORD_TYPES[name].required | COMMON_FIELDS.keys():
        spoilt = record(name)
        del spoilt[field]
        assert problems(spoilt), field


@pytest.mark.parametrize("name", RECORD_TYPES)
def test_what_the_writer_refuses_is_not_valid(name: str) -> None:
    assert problems(record(name) | {"more": 1})
    for field in RECORD_TYPES[name].required | RECORD_TYPES[name].optional:
        assert problems(record(name) | {field: 1.5}), field
        nullable = EVENT_FIELDS[field].nullable
        assert (problems(record(name) | {field: None}) == []) == nullable, field


@pytest.mark.parametrize(
    "spoilt",
    [
        {"type": "decision.maybe"},
        {"v": 2},
        {"seq": 0},
        {"ts": "2026-01-31T12:00:00Z"},
        {"hash": "0"},
        {"prev": "G" * 64},
    ],
)
def test_the_common_fields_are_held_to_their_form(spoilt: dict[str, Any]) -> None:
    assert problems(record("daemon.stop") | spoilt)
