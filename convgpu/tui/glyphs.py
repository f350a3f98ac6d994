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
        degree: Before the C of a temperature.
    """

    steps: str
    assigned: str
    empty: str
    ellipsis: str
    degree: str


BLOCKS: Final = Glyphs(steps="▏▎▍▌▋▊▉█", assigned="░", empty="·", ellipsis="…", degree="°")
ASCII: Final = Glyphs(steps="#", assigned="-", empty=".", ellipsis="~", degree="")


def glyphs_for(encoding: str) -> Glyphs:
    """Return the set that an output of this encoding can take."""
    return BLOCKS if encoding.lower().replace("-", "").startswith("utf") else ASCII


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
