# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of a record, made from the definitions in `audit.fields` and `audit.records`.

A record of a type that the schema does not know is not valid: the set of types is closed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from convgpu.audit.fields import COMMON_FIELDS, EVENT_FIELDS, Field, Kind
from convgpu.audit.records import FORMAT_VERSION, RECORD_TYPES, RecordType

_HASH: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_STRICTER: Final[Mapping[str, dict[str, Any]]] = {
    "v": {"const": FORMAT_VERSION},
    "seq": {"type": "integer", "minimum": 1},
    "ts": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$"},
    "prev": _HASH,
    "hash": _HASH,
}
"""What is known of common fields besides their kind."""
_OF_KIND: Final[Mapping[Kind, dict[str, Any]]] = {
    Kind.INTEGER: {"type": "integer"},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.STRING: {"type": "string"},
    Kind.STRINGS: {"type": "array", "items": {"type": "string"}},
    Kind.TEXT_MAP: {"type": "object", "additionalProperties": {"type": "string"}},
    Kind.COUNT_MAP: {"type": "object", "additionalProperties": {"type": "integer"}},
}


def schema() -> dict[str, Any]:
    """Return the schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of ConvGPU's audit log",
        "description": "One line of audit.jsonl. Sizes are bytes, durations nanoseconds, both integers.",
        "type": "object",
        "required": sorted(COMMON_FIELDS),
        "properties": {
            "type": {"enum": list(RECORD_TYPES)},
            **{
                name: _described(field) | _STRICTER.get(name, {})
                for name, field in COMMON_FIELDS.items()
                if name != "type"
            },
        },
        "allOf": [
            {"if": {"properties": {"type": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}}
            for name in RECORD_TYPES
        ],
        "$defs": {name: _of_type(record_type) for name, record_type in RECORD_TYPES.items()},
    }


def schema_text() -> str:
    """Return the schema as it is published."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _of_type(record_type: RecordType) -> dict[str, Any]:
    names = sorted(record_type.required | record_type.optional)
    return {
        "description": record_type.meaning,
        "required": sorted(record_type.required),
        "properties": {
            **{name: _described(EVENT_FIELDS[name]) for name in names},
            **dict.fromkeys(sorted(COMMON_FIELDS), True),
        },
        "additionalProperties": False,
    }


def _described(field: Field) -> dict[str, Any]:
    return {"description": field.meaning} | _kind(field)


def _kind(field: Field) -> dict[str, Any]:
    if field.kind is Kind.OBJECT:
        of_kind = _object(field.parts)
    elif field.kind is Kind.OBJECTS:
        of_kind = {"type": "array", "items": _object(field.parts)}
    else:
        of_kind = _OF_KIND[field.kind]
    return of_kind | {"type": [of_kind["type"], "null"]} if field.nullable else of_kind


def _object(parts: Mapping[str, Field]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": sorted(name for name, part in parts.items() if not part.nullable),
        "properties": {name: _described(part) for name, part in parts.items()},
        "additionalProperties": False,
    }
