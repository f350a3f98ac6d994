# SPDX-License-Identifier: Apache-2.0
"""What verbs print: records as JSON, JSON Lines or CSV, and plain tables.

JSON is exactly the daemon's dataclasses. The tables are made without rich: loading it would cost more than all the rest
of a listing.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import click

from convgpu.cli.listing import Listing

TABLE: Final = "table"
JSON: Final = "json"
JSONL: Final = "jsonl"
CSV: Final = "csv"
FORMATS: Final = (TABLE, JSON, JSONL, CSV)
"""`table` is for a person, and each verb's own; the others are the same for all."""


def echo_json(value: Any) -> None:
    """Print dataclasses as JSON, indented; a path becomes its text."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def echo_records(listing: Listing, records: Iterable[Any], output_format: str) -> None:
    """Print a whole listing in one of the formats for programs."""
    found = tuple(records)
    if output_format == JSON:
        echo_json(found[0] if listing.single else found)
        return
    with RecordStream(listing, output_format) as stream:
        stream.write(found)


class RecordStream:
    """Prints records as they come, in one of the formats for programs; JSON is one array over all of them.

    Use it as a context manager: what ends it, Ctrl-C too, completes what was printed.
    """

    def __init__(self, listing: Listing, output_format: str) -> None:
        self._listing = listing
        self._format = output_format
        self._any = False

    def __enter__(self) -> Self:
        if self._format == CSV:
            click.echo(_csv_line(self._listing.columns), nl=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._format == JSON:
            click.echo("\n]" if self._any else "[]")

    def write(self, records: Iterable[Any]) -> None:
        """Print some records."""
        import msgspec

        for record in records:
            if self._format == CSV:
                for row in self._listing.rows(record):
                    click.echo(_csv_line(row), nl=False)
                continue
            text = msgspec.json.encode(record, enc_hook=str).decode()
            if self._format == JSON:
                click.echo(f",\n  {text}" if self._any else f"[\n  {text}", nl=False)
            else:
                click.echo(text)
            self._any = True


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


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
