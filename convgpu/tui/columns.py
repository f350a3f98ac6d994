# SPDX-License-Identifier: Apache-2.0
"""Tables of one line a row, laid out to fit: the more room, the more columns, never a wrapped line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from convgpu.tui.glyphs import Glyphs

_T = TypeVar("_T")
_HEADING_STYLE: Final = "bold"
_SORTED_STYLE: Final = "bold underline"
CURSOR_STYLE: Final = "reverse"


@dataclass(frozen=True)
class Column(Generic[_T]):
    """One column.

    Attributes:
        heading: Its name, in capitals.
        width: The cells it needs.
        text: What it says of a row; None for a column that `draw` fills.
        draw: Draws a cell of a given width, for bars.
        right: Figures stand at the right.
        widest: The cells it takes when there is room: a text column takes what its longest text needs, a drawn one all.
        first: The cells of a text that goes before less important columns: these are left out if it needs more.
        meaning: One line for help and documentation.
        narrow: A heading for where the other does not fit.
        when: Whether it says anything of these rows; None: always.
    """

    heading: str
    width: int
    text: Callable[[_T], str] | None = None
    draw: Callable[[_T, int, Glyphs], Text] | None = None
    right: bool = False
    widest: int = 0
    first: int = 0
    meaning: str = ""
    narrow: str | None = None
    when: Callable[[Sequence[_T]], bool] | None = None

    @property
    def picture(self) -> bool:
        """Whether it is drawn and no figure: under the cursor it stays as it is."""
        return self.draw is not None and not self.right

    def heading_at(self, width: int) -> str:
        """Return the heading for a width."""
        return self.heading if self.narrow is None or width >= len(self.heading) else self.narrow


@dataclass(frozen=True)
class Layout(Generic[_T]):
    """The columns that fit, in the order shown, with their widths, and the cells between them."""

    columns: tuple[tuple[Column[_T], int], ...]
    gap: int


def lay_out(
    shown: Sequence[Column[_T]], importance: Sequence[Column[_T]], rows: Sequence[_T], width: int
) -> Layout[_T]:
    """Choose columns in the order of their importance until one does not fit; then give away what is left over.

    Room goes to texts that would be cut, then to wider gaps, then to bars.
    """
    chosen: list[Column[_T]] = []
    widths: dict[str, int] = {}
    taken = 0
    for column in importance:
        if column.when is not None and not column.when(rows):
            continue
        cells = max(column.width, min(column.first, _longest(column, rows))) if column.first else column.width
        needed = cells + (1 if chosen else 0)
        if chosen and taken + needed > width:
            break
        chosen.append(column)
        widths[column.heading] = min(cells, max(width, 0))
        taken += needed
    spare = max(0, width - taken)
    for column in chosen:
        if column.text is not None and column.widest:
            more = min(spare, max(0, min(column.widest, _longest(column, rows)) - widths[column.heading]))
            widths[column.heading] += more
            spare -= more
    gap = 2 if spare >= len(chosen) - 1 else 1
    spare -= (len(chosen) - 1) * (gap - 1)
    for column in chosen:
        if column.draw is not None and column.widest:
            more = min(spare, column.widest - column.width)
            widths[column.heading] += more
            spare -= more
    return Layout(tuple((column, widths[column.heading]) for column in shown if column in chosen), gap)


def _longest(column: Column[_T], rows: Sequence[_T]) -> int:
    return 0 if column.text is None else max((cell_len(column.text(row)) for row in rows), default=0)


def heading_line(layout: Layout[_T], sorted_by: str = "") -> Text:
    """Return the line of headings; the one that the rows are sorted by is underlined."""
    line = Text(no_wrap=True)
    for number, (column, width) in enumerate(layout.columns):
        line.append(" " * layout.gap if number else "")
        style = _SORTED_STYLE if sorted_by and column.heading == sorted_by else _HEADING_STYLE
        heading = cut(column.heading_at(width), width, "")
        padding = " " * (width - cell_len(heading))
        if column.right:
            line.append(padding).append(heading, style=style)
        else:
            line.append(heading, style=style).append(padding)
    return line


def row_line(layout: Layout[_T], row: _T, style: str, glyphs: Glyphs) -> Text:
    """Return one row as a line. A text may run on into columns that say nothing of this row."""
    line = Text(no_wrap=True)
    filled_to = start = 0
    for number, (column, width) in enumerate(layout.columns):
        text = "" if column.text is None else column.text(row)
        if column.draw is None and start < filled_to and not text:
            start += width + layout.gap
            continue
        line.pad_right(start - line.cell_len)
        if column.draw is not None:
            line.append_text(column.draw(row, width, glyphs))
        else:
            room = width if column.right else width + _empty_after(layout, number, row, cell_len(text) - width)
            line.append(_fit(text, room, right=column.right, ellipsis=glyphs.ellipsis), style=style)
        filled_to = line.cell_len
        start += width + layout.gap
    return line


def mark_cursor(line: Text, layout: Layout[_T], width: int) -> None:
    """Show that the cursor is on a row, from edge to edge; bars and histories stay readable."""
    line.pad_right(max(0, width - line.cell_len))
    begin = start = 0
    for column, cells in layout.columns:
        if column.picture:
            line.stylize(CURSOR_STYLE, begin, _letter_at(line, start))
            begin = _letter_at(line, start + cells)
        start += cells + layout.gap
    line.stylize(CURSOR_STYLE, begin)


def _letter_at(line: Text, cell: int) -> int:
    """Return the index of the letter that begins at a cell: some letters take two cells, some none."""
    if line.cell_len == len(line):
        return cell
    return next((number for number in range(len(line)) if cell_len(line.plain[:number]) >= cell), len(line))


def _empty_after(layout: Layout[_T], number: int, row: _T, lacking: int) -> int:
    """Return the cells of the columns after one that say nothing of this row, no more than it takes."""
    cells = 0
    for column, width in layout.columns[number + 1 :]:
        if cells >= lacking or column.text is None or column.text(row):
            break
        cells += layout.gap + width
    return cells


def plain(text: str) -> str:
    """Make a text harmless for a terminal: what a program calls itself may contain control characters."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def cut(text: str, width: int, ellipsis: str) -> str:
    """Cut a text that is too long for its cells, and show that it was cut."""
    text = plain(text)
    if cell_len(text) <= width:
        return text
    if width <= cell_len(ellipsis):
        return set_cell_size(text, max(width, 0))
    return set_cell_size(text, width - cell_len(ellipsis)).rstrip() + ellipsis


def wrapped(text: str, width: int) -> list[str]:
    """Lay out a text on lines of so many cells, at least one; a letter that is wider than a line becomes a space."""
    lines: list[str] = []
    for word in plain(text).split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += " " + word
        else:
            pieces = (piece for piece in chop_cells(word, width) if piece)
            lines += [piece if cell_len(piece) <= width else " " * width for piece in pieces]
    return lines


def _fit(text: str, width: int, *, right: bool, ellipsis: str) -> str:
    fitted = cut(text, width, ellipsis)
    padding = " " * (width - cell_len(fitted))
    return padding + fitted if right else fitted + padding
