# SPDX-License-Identifier: Apache-2.0
"""Tables that share the lines of the screen, each drawn into those that it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from convgpu.tui.columns import CURSOR_STYLE, Column, Layout, cut, heading_line, lay_out, mark_cursor, row_line
from convgpu.tui.glyphs import Glyphs

SMALLEST_LINES: Final = 3
"""Heading, one row, and how many more there are."""


@dataclass(frozen=True, slots=True)
class TablePane:
    """A table with a heading; rows that have no place are counted in the last line.

    Attributes:
        noun: What its rows are, for the last line.
        nothing: What is said where there is no row.
        sorted_by: The heading of the column that the rows are sorted by.
        cursor: The row under the cursor, which is kept in sight; None: there is no cursor.
        scrolled: Rows above the first that is shown, where there is no cursor.
        latest: The last rows are shown, and what came before is not counted.
        focused: Whether it is the pane that Up and Down move.
    """

    noun: str
    shown: Sequence[Column[Any]]
    importance: Sequence[Column[Any]]
    rows: Sequence[Any]
    style: Callable[[Any], str]
    nothing: str = ""
    sorted_by: str = ""
    cursor: int | None = None
    scrolled: int = 0
    latest: bool = False
    focused: bool = False

    @property
    def lines_wanted(self) -> int:
        """Heading and rows, or the line that says that there are none."""
        return 1 + max(1, len(self.rows))

    def draw(self, width: int, lines: int, glyphs: Glyphs) -> list[Text]:
        """Draw heading, rows and what is not shown."""
        if lines < 1:
            return []
        if not self.rows:
            return [said(self.nothing or f"No {self.noun}.", width, glyphs)]
        room = lines - 1
        counted = len(self.rows) > room >= 2 and not self.latest
        room -= counted
        first = self._first(room)
        visible = self.rows[first : first + room]
        layout = lay_out(self.shown, self.importance, visible, width)
        drawn = [self._heading(layout)]
        for number, row in enumerate(visible, start=first):
            line = row_line(layout, row, self.style(row), glyphs)
            if number == self.cursor:
                mark_cursor(line, layout, width)
            drawn.append(line)
        if counted:
            drawn.append(said(self._hidden(first, len(visible), glyphs), width, glyphs))
        return drawn

    def _first(self, room: int) -> int:
        """The cursor stays in the middle where it can: what is around it is in sight, and nothing jumps."""
        if self.latest:
            return max(0, len(self.rows) - room)
        wanted = self.scrolled if self.cursor is None else self.cursor - room // 2
        return max(0, min(wanted, len(self.rows) - room))

    def _heading(self, layout: Layout[Any]) -> Text:
        line = heading_line(layout, self.sorted_by)
        if self.focused:
            line.stylize(CURSOR_STYLE)
        return line

    def _hidden(self, first: int, visible: int, glyphs: Glyphs) -> str:
        below = len(self.rows) - first - visible
        if not first:
            return f"{glyphs.ellipsis} {below} more {self.noun}"
        return f"{glyphs.ellipsis} {first} above, {below} below"


def said(text: str, width: int, glyphs: Glyphs, style: str = "dim") -> Text:
    """Return a line of text that fits."""
    return Text(cut(text, width, glyphs.ellipsis), style=style, no_wrap=True)


def stack(
    panes: Sequence[TablePane],
    width: int,
    height: int | None,
    glyphs: Glyphs,
    *,
    apart: bool,
    main: str,
    optional: Sequence[str],
    expendable: Sequence[str],
) -> list[Text]:
    """Draw panes one below the other.

    Lines are shared max-min fair. Optional panes go where the main one would not get what it wants, or half of the
    lines; then expendable ones where there are too few lines for all.

    Args:
        panes: In the order in which they stand.
        width: Columns.
        height: Lines; None: as many as it takes.
        glyphs: The characters that the output can take.
        apart: Whether an empty line stands before each.
        main: Noun of the pane that matters most.
        optional: Nouns of panes that give way to it, the first to go first.
        expendable: Nouns of panes that go where it is still too crowded.
    """
    kept = list(panes)
    if height is None:
        shares = [pane.lines_wanted for pane in kept]
    else:
        for noun in (*optional, *expendable):
            shares = _shares(kept, height - len(kept) * apart)
            crowded = sum(min(SMALLEST_LINES, pane.lines_wanted) + apart for pane in kept) > height
            cramped = noun in optional and any(
                pane.noun == main and share < min(pane.lines_wanted, height // 2)
                for pane, share in zip(kept, shares, strict=True)
            )
            if crowded or cramped:
                kept = [pane for pane in kept if pane.noun != noun]
        shares = _shares(kept, height - len(kept) * apart)
    drawn: list[Text] = []
    for pane, share in zip(kept, shares, strict=True):
        drawn += [Text()] if apart else []
        drawn += pane.draw(width, share, glyphs)
    return drawn


def _shares(panes: Sequence[TablePane], lines: int) -> list[int]:
    shares = [0] * len(panes)
    left = max(0, lines)
    by_need = sorted(range(len(panes)), key=lambda number: panes[number].lines_wanted)
    for rank, number in enumerate(by_need):
        shares[number] = min(panes[number].lines_wanted, left // (len(panes) - rank))
        left -= shares[number]
    return shares
