# SPDX-License-Identifier: Apache-2.0
"""Single keys from the terminal, without waiting for Enter."""

from __future__ import annotations

import os
import select
import termios
import tty
from types import TracebackType
from typing import Any, Self, TextIO


class Keyboard:
    """The terminal in cbreak mode while the context lasts: keys come at once and are not echoed; Ctrl-C still works.

    Args:
        terminal: An input that is a terminal.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._descriptor = terminal.fileno()
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def wait(self, other_descriptor: int, timeout_s: float) -> str:
        """Wait for a key, for another descriptor, or for the time; return the keys that were pressed.

        Raises:
            EOFError: The terminal is gone.
        """
        ready, _, _ = select.select([self._descriptor, other_descriptor], [], [], timeout_s)
        if self._descriptor not in ready:
            return ""
        pressed = os.read(self._descriptor, 64)
        if not pressed:
            raise EOFError
        return pressed.decode(errors="replace")
