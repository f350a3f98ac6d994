# SPDX-License-Identifier: Apache-2.0
"""The characters that a screen can show, and bars made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.text import Text


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of characters.

    Attributes:
        steps: A cell that is filled a little, more, ... to full.
        assigned: A cell that is set aside and not used.
        empty: A cell that is neither.
        ellipsis: What stands for the rest of a cut text.
        levels: A cell of a history, from nothing to the top; empty: histories are drawn with Braille dots.
        branch: Before a process that is not the last of its container.
        last_branch: Before the last.
    """

    steps: str
    assigned: str
    empty: str
    ellipsis: str
    levels: str
    branch: str
    last_branch: str


BLOCKS: Final = Glyphs(
    steps="▏▎▍▌▋▊▉█", assigned="░", empty="·", ellipsis="…", levels="", branch="├ ", last_branch="└ "
)
ASCII: Final = Glyphs(
    steps="#", assigned="-", empty=".", ellipsis="~", levels=" .:-=+*#%@", branch="|-", last_branch="`-"
)

_PLAIN_TERMINALS: Final = frozenset({"linux", "vt100", "vt220"})
"""Terminals whose fonts have no Braille, whatever the locale says."""


def glyphs_for(encoding: str, terminal: str = "") -> Glyphs:
    """Return the set that an output of this encoding, on a terminal of this kind (TERM), can take."""
    unicode = encoding.lower().replace("-", "").startswith("utf")
    return BLOCKS if unicode and terminal not in _PLAIN_TERMINALS else ASCII


def bar(used: int | None, assigned: int | None, whole: int | None, width: int, glyphs: Glyphs, style: str) -> Text:
    """Draw what is used and what is set aside beyond that, as shares of a whole. All empty where they are not known."""
    if width <= 0:
        return Text()
    used_steps = _steps(used, whole, width * len(glyphs.steps))
    full, part = divmod(used_steps, len(glyphs.steps))
    filled = glyphs.steps[-1] * full + (glyphs.steps[part - 1] if part else "")
    reach = max(len(filled), -(-_steps(assigned, whole, width * len(glyphs.steps)) // len(glyphs.steps)))
    return Text.assemble(
        (filled, style),
        (glyphs.assigned * (reach - len(filled)), style),
        (glyphs.empty * (width - reach), "dim"),
    )


def _steps(part: int | None, whole: int | None, steps: int) -> int:
    """Scale to steps; something is never drawn as nothing."""
    if not part or not whole or part < 0:
        return 0
    return min(steps, max(1, part * steps // whole))
