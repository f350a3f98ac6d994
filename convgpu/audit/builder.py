# SPDX-License-Identifier: Apache-2.0
"""Makes records: holds the fields of an event against their definition, and adds what every record has.

An unknown type or field, a missing field or a value of the wrong kind is a mistake of the caller: ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from convgpu.audit.clock import Clock, format_timestamp
from convgpu.audit.fields import EVENT_FIELDS, Field, Kind
from convgpu.audit.records import FORMAT_VERSION, RECORD_TYPES, RecordType


class Event(NamedTuple):
    """Something that has happened and is to be recorded.

    Attributes:
        type_name: One of `RECORD_TYPES`.
        msg: The sentence for a person.
        fields: As the type asks for.
        wall_ns: When, nanoseconds since 1970.
        mono_ns: When, CLOCK_MONOTONIC.
    """

    type_name: str
    msg: str
    fields: Mapping[str, object]
    wall_ns: int
    mono_ns: int


def build_record(
    type_name: str, fields: Mapping[str, object], *, msg: str | None, seq: int, prev: str, clock: Clock
) -> tuple[RecordType, dict[str, object]]:
    """Make a whole record, all but its hash, of an event.

    Args:
        type_name: One of `RECORD_TYPES`.
        fields: What the type asks for.
        msg: A sentence for a person that says more than the type's own; None: that one.
        seq: Serial number.
        prev: Hash of the record before.
        clock: Gives time and boot.

    Raises:
        ValueError: See `check_fields`.
    """
    record_type = check_fields(type_name, fields)
    event = Event(
        type_name,
        record_type.sentence(fields) if msg is None else msg,
        fields,
        wall_ns=clock.wall_ns(),
        mono_ns=clock.monotonic_ns(),
    )
    return record_type, complete_record(event, seq=seq, prev=prev, boot_id=clock.boot_id)


def complete_record(event: Event, *, seq: int, prev: str, boot_id: str) -> dict[str, object]:
    """Add to an event, whose fields are as its type asks for, what every record has; all but the hash."""
    return {
        **event.fields,
        "v": FORMAT_VERSION,
        "seq": seq,
        "ts": format_timestamp(event.wall_ns),
        "mono_ns": event.mono_ns,
        "boot_id": boot_id,
        "type": event.type_name,
        "msg": event.msg,
        "prev": prev,
    }


def check_fields(type_name: str, fields: Mapping[str, object]) -> RecordType:
    """Hold the fields of an event against the definition of its type.

    Raises:
        ValueError: Unknown type or field, a required field is missing, or a value is of the wrong kind.
    """
    record_type = RECORD_TYPES.get(type_name)
    if record_type is None:
        raise ValueError(f"'{type_name}' is not a record type; known: {', '.join(RECORD_TYPES)}")
    missing = record_type.required - fields.keys()
    if missing:
        raise ValueError(f"{type_name} lacks {', '.join(sorted(missing))}")
    for name, value in fields.items():
        if name not in record_type.required and name not in record_type.optional:
            known = ", ".join(sorted(record_type.required | record_type.optional))
            raise ValueError(f"{type_name} has no field '{name}'; known: {known}")
        _check_value(f"{type_name}.{name}", EVENT_FIELDS[name], value)
    return record_type


def _check_value(path: str, field: Field, value: object) -> None:
    if value is None:
        if not field.nullable:
            raise ValueError(f"{path} may not be null")
    elif not _CHECKS[field.kind](value):
        raise ValueError(f"{path} must be {field.kind}, not {value!r}")
    elif isinstance(value, dict) and field.parts:
        _check_parts(path, field.parts, value)
    elif isinstance(value, (list, tuple)) and field.parts:
        for index, item in enumerate(value):
            _check_parts(f"{path}[{index}]", field.parts, item)


def _check_parts(path: str, parts: Mapping[str, Field], value: Mapping[str, object]) -> None:
    for name in value:
        if name not in parts:
            raise ValueError(f"{path} has no field '{name}'; known: {', '.join(parts)}")
    for name, part in parts.items():
        if name in value:
            _check_value(f"{path}.{name}", part, value[name])
        elif not part.nullable:
            raise ValueError(f"{path} lacks {name}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object, check: Callable[[object], bool]) -> bool:
    return isinstance(value, (list, tuple)) and all(map(check, value))


def _is_map(value: object, check: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and check(item) for key, item in value.items())


_CHECKS: Final[Mapping[Kind, Callable[[object], bool]]] = {
    Kind.INTEGER: _is_integer,
    Kind.BOOLEAN: lambda value: isinstance(value, bool),
    Kind.STRING: _is_string,
    Kind.STRINGS: lambda value: _is_list(value, _is_string),
    Kind.TEXT_MAP: lambda value: _is_map(value, _is_string),
    Kind.COUNT_MAP: lambda value: _is_map(value, _is_integer),
    Kind.OBJECT: lambda value: isinstance(value, dict),
    Kind.OBJECTS: lambda value: _is_list(value, lambda item: isinstance(item, dict)),
}
