# SPDX-License-Identifier: Apache-2.0
"""How large the allocations of a container were: a histogram of powers of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from convgpu.core.detail import SIZE_SOURCES
from convgpu.core.units import format_size
from convgpu.tui.columns import Column
from convgpu.tui.glyphs import Glyphs, bar
from convgpu.tui.panes import TablePane

_NO_WITNESS: Final = "Sizes of allocations: N/A, no witness runs."
_NONE_SEEN: Final = "Sizes of allocations: the witness has seen none since the daemon started."
_PLACES: Final[Mapping[str, str]] = {
    "runtime": "as the CUDA runtime was asked",
    "driver": "as libcuda was asked",
    "boundary": "as the driver took them",
}


@dataclass(frozen=True, slots=True)
class SizeRow:
    """How many allocations were of at least 2^first bytes and below 2^(last+1); `most` is the largest count."""

    first: int
    last: int
    count: int
    most: int


def sizes_pane(sizes: Mapping[str, Mapping[int, int]] | None) -> TablePane:
    """Return the histogram of the source nearest to the program that has one."""
    source = next((source for source in SIZE_SOURCES if sizes and any(sizes.get(source, {}).values())), None)
    if sizes is None or source is None:
        return TablePane("sizes", (), (), (), lambda _: "", nothing=_NO_WITNESS if sizes is None else _NONE_SEEN)
    counts = sizes[source]
    rows = _rows(counts)
    total = sum(counts.values())
    columns = (_FROM, _TO, _COUNT, _bars(f"{total} ALLOCATION{'S' * (total != 1)}, {_PLACES[source]}"))
    return TablePane("sizes", columns, columns, rows, lambda _: "")


def _rows(counts: Mapping[int, int]) -> list[SizeRow]:
    """Return a row for each power of two that occurs, and one for all between two of them."""
    most = max(counts.values())
    rows: list[SizeRow] = []
    for power in sorted(power for power, count in counts.items() if count):
        if rows and power > rows[-1].last + 1:
            rows.append(SizeRow(rows[-1].last + 1, power - 1, 0, most))
        rows.append(SizeRow(power, power, counts[power], most))
    return rows


def _bar(row: SizeRow, width: int, glyphs: Glyphs) -> Text:
    drawn = bar(row.count, None, row.most, width, glyphs, "cyan")
    return Text(drawn.plain.replace(glyphs.empty, " "), style="cyan")


def _bars(heading: str) -> Column[SizeRow]:
    return Column[SizeRow](heading, 10, draw=_bar, widest=60)


_FROM = Column[SizeRow]("SIZE", 7, lambda row: format_size(1 << row.first if row.first else 0), right=True)
_TO = Column[SizeRow]("BELOW", 7, lambda row: format_size(2 << row.last), right=True)
_COUNT = Column[SizeRow]("COUNT", 7, lambda row: str(row.count), right=True, widest=12)
