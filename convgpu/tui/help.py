# SPDX-License-Identifier: Apache-2.0
"""The help inside the program: keys, columns and states, from the tables that the program itself works by."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from rich.text import Text

from convgpu.tui import containers, events, gpus, groups, queue
from convgpu.tui.columns import Column, cut
from convgpu.tui.glyphs import Glyphs
from convgpu.tui.keys import KEYS, written_all

_LABEL_WIDTH: Final = 20
BAR_LABEL: Final = "(bar)"
"""What a column without a heading is called."""
SECTIONS: Final[Sequence[tuple[str, Sequence[Column[Any]]]]] = (
    ("Containers", containers.SHOWN),
    ("GPUs", gpus.SHOWN),
    ("Groups", groups.SHOWN),
    ("Queue", queue.SHOWN),
    ("Events", events.SHOWN),
)
"""The tables, with their columns in the order in which they stand."""


def help_lines(width: int, glyphs: Glyphs, *, edit: bool) -> list[Text]:
    """Return the whole help; a screen shows a part of it."""
    lines: list[Text] = []
    for group, keys in groupby(KEYS, key=lambda key: key.group):
        known = [key for key in keys if edit or not key.edit]
        if known:
            lines += _section(group, ((written_all(key), key.meaning) for key in known), width, glyphs)
    if not edit:
        lines += _wrapped("Limits can be changed where the monitor was started with --edit.", width)
    for title, columns in SECTIONS:
        lines += _section(title, ((column.heading or BAR_LABEL, column.meaning) for column in columns), width, glyphs)
    lines += _section("States", containers.STATES.items(), width, glyphs)
    lines += _wrapped("N/A is what nobody knows; it is never shown as 0.", width)
    return lines


def _section(title: str, entries: Iterable[tuple[str, str]], width: int, glyphs: Glyphs) -> list[Text]:
    lines = [Text(cut(title, width, glyphs.ellipsis), style="bold", no_wrap=True)]
    for label, meaning in entries:
        room = width - _LABEL_WIDTH
        if room < _LABEL_WIDTH:  # a narrow screen: one below the other
            lines += _wrapped(f"{label}: {meaning}", width)
            continue
        texts = textwrap.wrap(meaning, room)
        for number, text in enumerate(texts):
            line = Text(no_wrap=True)
            line.append(f"  {label if number == 0 else '':{_LABEL_WIDTH - 2}}", style="cyan").append(text)
            lines.append(line)
    return [*lines, Text()]


def _wrapped(text: str, width: int) -> list[Text]:
    return [Text(line, no_wrap=True) for line in textwrap.wrap(text, max(1, width))]
