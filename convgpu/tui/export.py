# SPDX-License-Identifier: Apache-2.0
"""A screen as a picture, for documents and bug reports."""

from __future__ import annotations

import io
import re
from typing import Final

from rich.console import Console

from convgpu.core.status import Snapshot
from convgpu.tui.glyphs import BLOCKS, Glyphs
from convgpu.tui.view import Scene, view

_FONT_FACE: Final = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
_TITLE: Final = "convgpu top"


def export_svg(
    snapshot: Snapshot,
    width: int = 100,
    height: int | None = None,
    *,
    glyphs: Glyphs = BLOCKS,
    scene: Scene | None = None,
) -> str:
    """Draw a snapshot as the monitor would show it, and return a standalone SVG.

    Args:
        snapshot: What to show; simulated GPUs are marked in the picture as on the screen.
        width: Columns.
        height: Lines; None: as many as it takes.
        glyphs: The characters to draw with.
        scene: What is shown beside the snapshot.
    """
    console = Console(
        record=True,
        width=max(1, width),
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        _environ={},
    )
    console.print(view(snapshot, width, height, glyphs=glyphs, scene=scene))
    # A fixed id: the same snapshot gives the same file, so that a picture in a repository changes only when it must.
    picture = console.export_svg(title=_TITLE, unique_id="convgpu")
    # rich names a font on a server; a picture in a bug report should make nobody's viewer ask the network.
    return _FONT_FACE.sub("", picture)
