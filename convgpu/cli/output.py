# SPDX-License-Identifier: Apache-2.0
"""What verbs print: JSON that is exactly the daemon's dataclasses, and plain tables.

The tables are made without rich: loading it would cost more than all the rest of a listing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import click


def echo_json(value: Any) -> None:
    """Print dataclasses as JSON, indented; a path becomes its text."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def echo_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in the manner of `docker ps`: columns three spaces apart, nothing cut."""
    click.echo(table(headings, rows))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text, without spaces at the ends of lines."""
    lines = [list(headings), *[list(row) for row in rows]]
    widths = [max(cell_width(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "   ".join(cell + " " * (width - cell_width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) + wide - marks
