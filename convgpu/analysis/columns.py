# SPDX-License-Identifier: Apache-2.0
"""What a table and a column of an export are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Value = int | str | bool | None


class ColumnKind(StrEnum):
    """What a cell holds; an empty cell is *not known* or *not the case*, never 0."""

    INTEGER = "integer"
    TEXT = "text"
    BOOLEAN = "boolean"


class Hidden(StrEnum):
    """What becomes of a cell in an export with pseudonyms: the first ones get one, texts are left out."""

    CONTAINER = "container"
    IMAGE = "image"
    COMMAND = "command"
    USER = "user"
    GPU = "gpu"
    GROUP = "group"
    BOOT = "boot"
    WORD = "word"
    """A text that is kept if it is one word, as reasons of decisions are, and left out if it is a sentence."""
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: In every format.
        kind: Of its cells.
        unit: Of numbers: bytes, ns, ns since 1970, ...; empty: none.
        meaning: One line.
        hidden: What it becomes with pseudonyms; None: it stays.
    """

    name: str
    kind: ColumnKind
    unit: str
    meaning: str
    hidden: Hidden | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        name: Also that of its file.
        meaning: What a row is.
        columns: In their order.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]


def integer(name: str, unit: str, meaning: str) -> Column:
    """Return a column of numbers."""
    return Column(name, ColumnKind.INTEGER, unit, meaning)


def bytes_(name: str, meaning: str) -> Column:
    """Return a column of sizes."""
    return integer(name, "bytes", meaning)


def text(name: str, meaning: str, hidden: Hidden | None = None) -> Column:
    """Return a column of texts."""
    return Column(name, ColumnKind.TEXT, "", meaning, hidden)


def flag(name: str, meaning: str) -> Column:
    """Return a column of yes and no."""
    return Column(name, ColumnKind.BOOLEAN, "", meaning)


def user(name: str, meaning: str) -> Column:
    """Return a column of user ids, as texts: a pseudonym is one too."""
    return Column(name, ColumnKind.TEXT, "", meaning, Hidden.USER)
