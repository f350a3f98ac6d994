# SPDX-License-Identifier: Apache-2.0
"""What a verb lists: the type of its records, and how a record becomes rows of CSV. docs/reference/listings.md is it.

JSON has the records as they are, parts within parts. CSV is tidy: one row a line, one value a cell. So a record is
laid flat by rules that hold for every listing: what it holds one of lies beside its own fields; of what it holds many,
one kind (`parts`) has a row each, and the others are in JSON alone.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Listing:
    """One listing.

    Attributes:
        record: The dataclass of a record.
        parts: The field whose parts have a row of CSV each; None: a record is a row.
        shared: The columns of the record that its parts repeat; None: all of them.
        single: There is one record, not a list of them: JSON is the object itself.
        of: When this listing is shown, where a command has several.
    """

    record: type[Any]
    parts: str | None = None
    shared: tuple[str, ...] | None = None
    single: bool = False
    of: str = ""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of CSV."""
        own = tuple(name for name, _ in _columns(self.record))
        if self.shared is not None:
            own = tuple(name for name in own if name in self.shared)
        if self.parts is None:
            return own
        part = tuple(name for name, _ in _columns(self.part_type))
        return (*(name for name in own if name not in part), *part)

    @property
    def part_type(self) -> type[Any]:
        """The dataclass of a part.

        Raises:
            TypeError: Its records are not divided.
        """
        if self.parts is not None:
            for each in _alternatives(get_type_hints(self.record)[self.parts]):
                for kind in get_args(each):
                    if isinstance(kind, type) and is_dataclass(kind):
                        return kind
        raise TypeError(f"{self.record.__name__}.{self.parts} holds no parts")

    def rows(self, record: Any) -> Iterator[tuple[str, ...]]:
        """Return the rows of one record: one for each of its parts, and one with empty cells where it has none."""
        own = dict(_cells(record))
        parts: Iterable[Any] = (getattr(record, self.parts) or (None,)) if self.parts is not None else (None,)
        for part in parts:
            cells = own if part is None else own | dict(_cells(part))
            yield tuple(cells.get(name, "") for name in self.columns)


def _columns(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Return the columns of a dataclass with their types."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        alternatives = _alternatives(hints[field.name])
        nested = next((each for each in alternatives if is_dataclass(each)), None)
        if nested is not None:
            yield from _columns(nested)  # type: ignore[arg-type]  # a class, as the annotation of a field is
        elif not any(_holds_records(each) for each in alternatives):
            yield field.name, hints[field.name]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _holds_records(hint: Any) -> bool:
    """Tell whether a field holds many things that have parts themselves: those are in JSON alone."""
    if get_origin(hint) is dict:
        return get_origin(get_args(hint)[1]) is dict
    return get_origin(hint) in (tuple, list) and any(is_dataclass(each) for each in get_args(hint))


def _cells(record: Any) -> Iterator[tuple[str, str]]:
    for name, _ in _columns(type(record)):
        yield name, cell(_value(record, name))


def _value(record: Any, name: str) -> Any:
    """Return a column's value, of the record itself or of what it holds one of; None where it holds none."""
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name == name:
            return value
        if is_dataclass(value) and (found := _value(value, name)) is not None:
            return found
    return None


def cell(value: Any) -> str:
    """Return a value as CSV has it: nothing for what is not known, words for several, the sum of a table of numbers."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return str(sum(value.values()))
    if isinstance(value, (tuple, list)):
        return " ".join(map(cell, value))
    return str(value)
