# SPDX-License-Identifier: Apache-2.0
"""The monitor on a terminal: once as a plain table, or live."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from convgpu.api import Client
from convgpu.core.status import Snapshot
from convgpu.tui.feed import Feed, Reading
from convgpu.tui.glyphs import glyphs_for
from convgpu.tui.keyboard import Keyboard
from convgpu.tui.view import view

QUIT_KEYS: Final = "q"
_RESIZE_CHECK_S: Final = 0.25
_PIPE_WIDTH: Final = 160
"""Columns where the output is no terminal and COLUMNS is not set: wide enough for every figure of a container."""


def is_interactive() -> bool:
    """Tell whether a live screen makes sense: keys can come in, and the terminal can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and not Console().is_dumb_terminal


def print_once(snapshot: Snapshot) -> None:
    """Print one plain table. NO_COLOR and an output that is no terminal mean no escape sequences."""
    piped_width = _PIPE_WIDTH if not sys.stdout.isatty() and "COLUMNS" not in os.environ else None
    console = Console(width=piped_width, highlight=False, soft_wrap=True)
    console.print(view(snapshot, console.width, glyphs=glyphs_for(console.encoding)))


def watch(path: Path, interval_s: float) -> None:
    """Show the live screen until `q` or Ctrl-C.

    A daemon that goes away leaves the last figures on the screen, with a notice, and is asked for again.

    Raises:
        DaemonUnavailableError: Nobody answers at the start.
    """
    with Client(path) as client:
        first = client.snapshot()
    console = Console()
    with (
        contextlib.suppress(KeyboardInterrupt, EOFError),
        Feed(path, interval_s, first) as feed,
        Keyboard(sys.stdin) as keyboard,
        Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live,
    ):
        drawn: tuple[Reading, str | None, tuple[int, int]] | None = None
        pressed = ""
        while not set(pressed) & set(QUIT_KEYS):
            reading = feed.latest()
            notice = reading.notice(time.monotonic(), interval_s)
            wanted = (reading, notice, (console.width, console.height))
            if wanted != drawn:
                live.update(_Screen(reading.snapshot, notice, interval_s), refresh=True)
                drawn = wanted
            pressed = keyboard.wait(feed.descriptor, _RESIZE_CHECK_S)


class _Screen:
    """The view in whatever size the terminal has at the moment of drawing."""

    def __init__(self, snapshot: Snapshot, notice: str | None, interval_s: float) -> None:
        self._snapshot = snapshot
        self._notice = notice
        self._footer = f"q quit   every {interval_s:g} s"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield view(
            self._snapshot,
            options.max_width,
            options.height or console.height,
            glyphs=glyphs_for(console.encoding),
            notice=self._notice,
            footer=self._footer,
        )
