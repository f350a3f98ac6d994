# SPDX-License-Identifier: Apache-2.0
"""Histories as areas: Braille has two samples and four levels a cell, plain characters one sample and ten levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from convgpu.tui.glyphs import Glyphs

_BLANK: Final = 0x2800
_LEFT: Final = (0x00, 0x40, 0x44, 0x46, 0x47)
"""The dots of a cell's left column filled from below, by level; Unicode numbers them 7, 3, 2, 1."""
_RIGHT: Final = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_LEVELS: Final = 4


def samples_across(width: int, glyphs: Glyphs) -> int:
    """Return how many samples fit into so many cells."""
    return width if glyphs.levels else 2 * width


def area(samples: Sequence[int | None], whole: int | None, width: int, height: int, glyphs: Glyphs) -> list[str]:
    """Draw the last samples as an area, the newest at the right, as shares of a whole.

    Something is never drawn as nothing; nothing and what is not known are both blank, and figures beside it tell which.

    Returns:
        So many lines of so many cells, the highest first.
    """
    if width <= 0 or height <= 0:
        return [""] * max(0, height)
    room = samples_across(width, glyphs)
    steps = height * (len(glyphs.levels) - 1 if glyphs.levels else _LEVELS)
    last = islice(samples, max(0, len(samples) - room), None)
    levels = [_level(sample, whole, steps) for sample in last]
    levels = [0] * (room - len(levels)) + levels
    draw = _plain_line if glyphs.levels else _braille_line
    return [draw(levels, row, glyphs) for row in range(height - 1, -1, -1)]


def _level(sample: int | None, whole: int | None, steps: int) -> int:
    if not sample or not whole or sample < 0:
        return 0
    return min(steps, max(1, round(sample * steps / whole)))


def _braille_line(levels: Sequence[int], row: int, _: Glyphs) -> str:
    heights = [min(_LEVELS, max(0, level - row * _LEVELS)) for level in levels]
    pairs: Iterable[tuple[int, int]] = zip(heights[::2], heights[1::2], strict=True)
    # Blank cells are spaces: some fonts draw the blank Braille pattern as empty circles.
    return "".join(chr(_BLANK | _LEFT[left] | _RIGHT[right]) if left or right else " " for left, right in pairs)


def _plain_line(levels: Sequence[int], row: int, glyphs: Glyphs) -> str:
    top = len(glyphs.levels) - 1
    return "".join(glyphs.levels[min(top, max(0, level - row * top))] for level in levels)
