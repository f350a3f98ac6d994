# SPDX-License-Identifier: Apache-2.0
"""The terminal while the monitor runs: a screen of its own, of which only the lines that changed are written."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console
from rich.text import Text

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""The alternate screen, without a cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_ERASE_LINE: Final = "\x1b[K"
_CLEAR: Final = "\x1b[H\x1b[2J"
_PLAIN: Final = "\x1b[0m"
_DEFAULT_SIZE: Final = (80, 24)
"""For a terminal that does not know its own: a serial line."""


class Screen:
    """Draws texts over the whole terminal.

    Every method that writes raises EOFError where the terminal is gone.

    Args:
        console: Knows the terminal's colours.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: list[str] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now, whatever COLUMNS and LINES said when it began.

        Raises:
            EOFError: The terminal is gone.
        """
        try:
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
        except OSError as error:
            raise EOFError from error
        return columns or _DEFAULT_SIZE[0], lines or _DEFAULT_SIZE[1]

    def enter(self) -> None:
        """Take the terminal over."""
        self.forget()
        self._write(_ENTER)

    def leave(self) -> None:
        """Give it back with what was on it before."""
        self._write(_LEAVE)

    def forget(self) -> None:
        """Draw everything the next time: the terminal may show something else by now."""
        self._drawn = []

    def draw(self, text: Text) -> None:
        """Show a text of no more lines and columns than the terminal has."""
        with self._console.capture() as captured:
            self._console.print(text, end="", soft_wrap=True)
        lines = captured.get().split("\n")
        before = self._drawn if len(self._drawn) == len(lines) else []
        # Erased first: after a line that fills the terminal the cursor stands on its last cell, and would erase that.
        changed = "".join(
            f"\x1b[{number};1H{_ERASE_LINE}{line}{_PLAIN}"
            for number, line in enumerate(lines, start=1)
            if not before or before[number - 1] != line
        )
        self._drawn = lines
        if changed:
            self._write(changed if before else _CLEAR + changed)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            raise EOFError from error
