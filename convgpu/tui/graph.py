# SPDX-License-Identifier: Apache-2.0
"""What a container held on a device a while ago, some lines high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from convgpu.core.status import DeviceUsage
from convgpu.tui import figures
from convgpu.tui.braille import area, samples_across
from convgpu.tui.columns import cut
from convgpu.tui.glyphs import Glyphs
from convgpu.tui.history import History

HEIGHT: Final = 4
_SCALE_WIDTH: Final = figures.SIZE_WIDTH + 1


def graph_lines(container_id: str, device: DeviceUsage, history: History, width: int, glyphs: Glyphs) -> list[Text]:
    """Return a heading that says what and since when, and the area from nothing to the limit."""
    samples = history.used_bytes(container_id, device.uuid)
    across = max(0, width - _SCALE_WIDTH)
    shown = min(len(samples), samples_across(across, glyphs))
    span = figures.duration(round(1000 * history.span_s(shown)))
    heading = f"TREND, GPU {device.index}: what it held in the last {span}, up to its limit"
    top, bottom = figures.size(device.limit_bytes), "0B"
    lines = [Text(cut(heading, width, glyphs.ellipsis), style="bold", no_wrap=True)]
    drawn = area(samples, device.limit_bytes, across, HEIGHT, glyphs)
    scales: Sequence[str] = (top, *[""] * (HEIGHT - 2), bottom)
    for scale, line in zip(scales, drawn, strict=True):
        label = f"{scale:>{_SCALE_WIDTH - 1}} "[: max(0, width)]
        lines.append(Text.assemble((label, "dim"), (line, "cyan"), no_wrap=True))
    return lines
