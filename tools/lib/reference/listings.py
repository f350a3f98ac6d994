# SPDX-License-Identifier: Apache-2.0
"""docs/reference/listings.md: the records of every listing, from their dataclasses."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from convgpu.cli.listing import Listing
from reference.commands import all_commands, format_option

_WIDTH = 120
_HEAD = """\
# Listings

Made from the types of the code by `tools/reference.py`; change those, not this page.

Every command that lists something has `--format table|json|jsonl|csv`. `table` is for a person and may change from
version to version. The others are for programs, and the same for all commands:

- **json**: one array of records, indented; of a command that shows a single thing, that record itself. Of a command
  that goes on (`trace`, `events`), one array over all that it told, complete also after Ctrl-C.
- **jsonl**: a record a line, as soon as it is there.
- **csv**: a heading, then a row a line (RFC 4180, but lines end with a line feed; UTF-8). Where a record has parts,
  such as a container's devices, each part has a row, with the record's own columns before it; a record without parts
  has one row with empty cells. A column that both have is the part's. What has parts beyond that is in JSON alone.

Units are in the names: `_bytes`, `_ms` and `_ns` (milliseconds, nanoseconds), `_s` (seconds), `_percent`, `_c` (degrees
Celsius). What is not known is `null` in JSON and an empty cell in CSV, never 0. In CSV several words of one cell have a
space between them, and a table of numbers is its sum. Sentences for a person go to stderr, never between records.

A field is never renamed or given another meaning within a major version; fields may be added at the end.
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD, "## Commands", ""]
    described: dict[type[Any], None] = {}
    for words, command in all_commands():
        option = format_option(command)
        for listing in option.listings if option is not None else ():
            lines += _listing(words, listing)
            described.update(dict.fromkeys(_types_of(listing.record)))
    lines += ["## Records", ""]
    for kind in described:
        lines += _record(kind)
    return "\n".join(lines).rstrip("\n") + "\n"


def _listing(words: tuple[str, ...], listing: Listing) -> Iterator[str]:
    yield f"### convgpu {' '.join(words)}{', ' + listing.of if listing.of else ''}"
    yield ""
    name = listing.record.__name__
    shape = f"one [{name}](#{name.lower()})" if listing.single else f"an array of [{name}](#{name.lower()})"
    per = f", a row for each of its `{listing.parts}`" if listing.parts else ""
    yield f"JSON: {shape}. CSV{per}:"
    yield ""
    yield "```text"
    yield from textwrap.wrap(",".join(listing.columns).replace(",", ", "), _WIDTH, break_on_hyphens=False)
    yield "```"
    yield ""


def _types_of(kind: type[Any]) -> Iterator[type[Any]]:
    """Return a dataclass and those that it holds."""
    yield kind
    for hint in get_type_hints(kind).values():
        for each in _dataclasses_in(hint):
            yield from _types_of(each)


def _dataclasses_in(hint: Any) -> Iterator[type[Any]]:
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for each in get_args(hint):
        yield from _dataclasses_in(each)


def _record(kind: type[Any]) -> Iterator[str]:
    summary, meanings = documented(kind)
    yield f"### {kind.__name__}"
    yield ""
    yield summary
    yield ""
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    hints = get_type_hints(kind)
    for field in fields(kind):
        yield f"| `{field.name}` | {_name_of(hints[field.name])} | {meanings.get(field.name, '')} |"
    yield ""


def documented(kind: type[Any]) -> tuple[str, Mapping[str, str]]:
    """Return the summary of a dataclass's docstring, and what it says of each field."""
    text, _, attributes = inspect.getdoc(kind).partition("\nAttributes:\n")  # type: ignore[union-attr]
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + attributes):
        name, colon, meaning = entry.strip().partition(": ")
        if colon:
            meanings[name] = " ".join(meaning.split())
    return " ".join(text.split()), meanings


def _name_of(hint: Any) -> str:
    """Say a type as JSON has it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_name_of(each) for each in get_args(hint))
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in get_args(hint))
    if origin in (tuple, list):
        return f"array of {_name_of(get_args(hint)[0])}"
    if origin is dict:
        return f"object of {_name_of(get_args(hint)[1])}"
    if is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if isinstance(hint, type) and issubclass(hint, (str, PurePath)):
        return "string"
    return {bool: "boolean", int: "integer", float: "number", type(None): "null", Any: "any"}[hint]
