# SPDX-License-Identifier: Apache-2.0
"""The last lines: the keys and what was chosen, or a question and its answer."""

from __future__ import annotations

import textwrap
from typing import Final

from rich.text import Text

from convgpu.tui import figures
from convgpu.tui.columns import cut, plain
from convgpu.tui.glyphs import Glyphs
from convgpu.tui.keys import KEYS, written
from convgpu.tui.state import CREATED, Ask, Page, Prompt, State

_GAP: Final = "  "
_MOST_LINES: Final = 3
_CURSOR: Final = "_"


def footer_lines(state: State, shown: int, known: int, width: int, glyphs: Glyphs) -> list[Text]:
    """Return the last line, or up to three where something is asked or said.

    Args:
        state: What was chosen.
        shown: Rows that the filter lets through.
        known: Rows in all.
        width: Columns.
        glyphs: The characters that the output can take.
    """
    if state.prompt is not None:
        return _asked(state.prompt, shown, known, width)
    line = Text(no_wrap=True)
    for text, style in (*_chosen(state, shown, known), *_hints(state)):
        gap = _GAP if line else ""
        if line and line.cell_len + len(gap) + Text(plain(text)).cell_len > width:
            break
        line.append(gap).append(cut(text, width, glyphs.ellipsis), style=style)
    return [line]


def _chosen(state: State, shown: int, known: int) -> list[tuple[str, str]]:
    """What differs from how the monitor begins, in words."""
    chosen = []
    if state.paused:
        chosen.append(("PAUSED", "bold yellow"))
    if state.filter:
        chosen.append((f"filter '{state.filter}' {shown} of {known}", "bold cyan"))
    if state.sort != CREATED or state.reverse:
        chosen.append((f"sort {state.sort}{' reversed' if state.reverse else ''}", "cyan"))
    if state.edit:
        chosen.append(("EDIT", "bold magenta"))
    return chosen


def _hints(state: State) -> list[tuple[str, str]]:
    hints = [
        (f"{written(key.names[0])} {key.hint}", "dim") for key in KEYS if key.hint and (state.edit or not key.edit)
    ]
    if state.page is not Page.MAIN:
        hints = [("q back", "dim"), ("arrows scroll, and go to the next" if state.page is Page.DETAIL else "", "dim")]
    return [hint for hint in (*hints[:1], (f"every {state.interval_s:g} s", "dim"), *hints[1:]) if hint[0]]


def _asked(prompt: Prompt, shown: int, known: int, width: int) -> list[Text]:
    style = "bold"
    match prompt.ask:
        case Ask.FILTER:
            said = f"filter: {prompt.typed}{_CURSOR}  ({shown} of {known}; Enter keeps it, Esc gives it up)"
        case Ask.LIMIT:
            now = figures.exact(prompt.old_bytes)
            said = f"limit of {prompt.name}, now {now}: {prompt.typed}{_CURSOR}  (Enter goes on, Esc gives up)"
        case Ask.CONFIRM:
            old, new = figures.exact(prompt.old_bytes), figures.exact(prompt.new_bytes)
            said = f"Change the limit of {prompt.name} from {old} to {new}?  y: yes   any other key: no"
            style = "bold yellow"
        case Ask.BUSY:
            said = prompt.said
        case Ask.DONE:
            said, style = prompt.said, "bold green"
        case Ask.FAILED:
            said, style = f"{prompt.said}  (any key)", "bold red"
    texts = [said] if prompt.ask is not Ask.LIMIT or not prompt.said else [prompt.said, said]
    lines = [line for text in texts for line in textwrap.wrap(plain(text), max(1, width)) or [""]]
    return [Text(cut(line, width, ""), style=style, no_wrap=True) for line in lines[:_MOST_LINES]]
