# SPDX-License-Identifier: Apache-2.0
"""From a snapshot to a screenful: a pure function of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from convgpu.core.status import Snapshot
from convgpu.tui import containers, gpus, queue
from convgpu.tui.columns import Column, cut, heading_line, lay_out, row_line
from convgpu.tui.glyphs import BLOCKS, Glyphs
from convgpu.tui.header import title_line, witness_line

_ROOMY_LINES: Final = 16
"""From this height on the tables stand apart by an empty line."""
_SMALLEST_TABLE_LINES: Final = 3
"""Heading, one row, and how many more there are."""
_NO_CONTAINERS: Final = "No containers. Start one: convgpu run --limit 4GiB -- ..."


@dataclass(frozen=True, slots=True)
class _Table:
    """One of the tables of the screen, not laid out yet."""

    noun: str
    shown: Sequence[Column[Any]]
    importance: Sequence[Column[Any]]
    rows: Sequence[Any]
    style: Callable[[Any], str]

    @property
    def lines_wanted(self) -> int:
        return 1 + max(1, len(self.rows))


def view(
    snapshot: Snapshot,
    width: int,
    height: int | None = None,
    *,
    glyphs: Glyphs = BLOCKS,
    notice: str | None = None,
    footer: str | None = None,
) -> RenderableType:
    """Return the monitor's screen.

    Args:
        snapshot: What the daemon said.
        width: Columns; no line is longer.
        height: Lines; None: as many as it takes.
        glyphs: The characters that the output can take.
        notice: Something that must be seen, such as a daemon that no longer answers.
        footer: The last line: keys.
    """
    lines = [title_line(snapshot, width, glyphs)]
    if notice is not None:
        lines.append(Text(cut(notice, width, glyphs.ellipsis), style="bold red", no_wrap=True))
    last = [] if footer is None else [Text(cut(footer, width, glyphs.ellipsis), style="dim", no_wrap=True)]
    roomy = height is None or height >= _ROOMY_LINES
    lines.append(witness_line(snapshot, width, glyphs))
    tables = _tables(snapshot)
    if height is None:
        shares = [table.lines_wanted for table in tables]
    else:
        left = height - len(lines) - len(last) - (len(tables) if roomy else 0)
        tables, shares = _share(tables, left)
    for table, share in zip(tables, shares, strict=True):
        lines += [Text()] if roomy else []
        lines += _table_lines(table, width, share, glyphs)
    if height is not None:
        lines = lines[: max(0, height - len(last))]
        lines += [Text()] * (height - len(lines) - len(last)) if last else []
        lines = (lines + last)[: max(0, height)]
    else:
        lines += last
    for line in lines:
        line.rstrip()
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)


def _tables(snapshot: Snapshot) -> list[_Table]:
    """Return the tables in the order in which they stand."""
    tables = [
        _Table("GPUs", gpus.SHOWN, gpus.IMPORTANCE, snapshot.gpus, lambda _: ""),
        _Table(
            "containers",
            containers.SHOWN,
            containers.IMPORTANCE,
            containers.container_rows(snapshot),
            lambda row: str(row.style),
        ),
    ]
    if snapshot.queue:
        tables.append(_Table("requests", queue.SHOWN, queue.IMPORTANCE, queue.queue_rows(snapshot), lambda _: "yellow"))
    return tables


def _share(tables: list[_Table], lines: int) -> tuple[list[_Table], list[int]]:
    """Share lines among tables, max-min fair; too few for all: GPUs go first, then the queue.

    Returns:
        The tables that stay, in their order, and the lines of each.
    """
    for expendable in ("GPUs", "requests"):
        if lines < _SMALLEST_TABLE_LINES * len(tables):
            tables = [table for table in tables if table.noun != expendable]
    shares = dict.fromkeys((table.noun for table in tables), 0)
    left = max(0, lines)
    for rank, table in enumerate(sorted(tables, key=lambda table: table.lines_wanted)):
        shares[table.noun] = min(table.lines_wanted, left // (len(tables) - rank))
        left -= shares[table.noun]
    return tables, [shares[table.noun] for table in tables]


def _table_lines(table: _Table, width: int, lines: int, glyphs: Glyphs) -> list[Text]:
    """Lay a table out in a number of lines; rows that have no place are counted in the last one."""
    if lines < 1:
        return []
    if not table.rows:
        text = _NO_CONTAINERS if table.noun == "containers" else f"No {table.noun}."
        return [Text(cut(text, width, glyphs.ellipsis), style="dim", no_wrap=True)]
    room = lines - 1
    visible = list(table.rows[:room])
    if len(table.rows) > room >= 2:
        visible = visible[:-1]
    layout = lay_out(table.shown, table.importance, visible, width)
    drawn = [heading_line(layout), *(row_line(layout, row, table.style(row), glyphs) for row in visible)]
    hidden = len(table.rows) - len(visible)
    if hidden and room >= 2:
        drawn.append(Text(cut(f"{glyphs.ellipsis} {hidden} more {table.noun}", width, ""), style="dim", no_wrap=True))
    return drawn
