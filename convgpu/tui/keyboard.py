# SPDX-License-Identifier: Apache-2.0
"""Single keys from the terminal, without waiting for Enter, and with names."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import termios
import tty
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, TextIO

_SEQUENCES: Final[Mapping[str, str]] = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "OA": "up", "OB": "down", "OC": "right", "OD": "left",
    "[H": "home", "[F": "end", "OH": "home", "OF": "end", "[1~": "home", "[7~": "home", "[4~": "end", "[8~": "end",
    "[5~": "pgup", "[6~": "pgdn", "[3~": "delete", "OP": "f1", "[11~": "f1", "[[A": "f1", "[Z": "backtab",
}  # fmt: skip
"""What terminals send after ESC: xterm, rxvt, tmux and the Linux console."""
_WHOLE: Final = re.compile(r"O[A-Za-z]|\[\[[A-E]|\[(?!\[)[0-?]*[ -/]*[@-~]")
"""Any function key: SS3, the console's F1 to F5, CSI. What has no name is swallowed as a whole."""
_BEGUN: Final = re.compile(r"O|\[\[?|\[[0-?]*[ -/]*")
_CONTROLS: Final[Mapping[str, str]] = {
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace", " ": "space", "\x00": "ctrl-@",
}  # fmt: skip
_ESCAPE_WAIT_S: Final = 0.05
"""How long the rest of a sequence may take; after that ESC was the key."""


def decode(received: str) -> tuple[list[str], str]:
    """Split what a terminal sent into keys.

    Returns:
        Names such as `up`, `enter`, `ctrl-l` and single characters, and what may be the begin of another key.
    """
    keys: list[str] = []
    while received:
        letter, rest = received[0], received[1:]
        if letter != "\x1b":
            keys.append(_name_of(letter))
            received = rest
        elif whole := _WHOLE.match(rest):
            name = _SEQUENCES.get(whole.group())
            keys += [] if name is None else [name]
            received = rest[whole.end() :]
        elif not rest or _BEGUN.fullmatch(rest):
            break
        else:
            keys.append("esc")
            received = rest
    return keys, received


def _name_of(letter: str) -> str:
    if letter in _CONTROLS:
        return _CONTROLS[letter]
    if letter < " ":
        return f"ctrl-{chr(ord(letter) + 0x60)}"
    return letter


class Keyboard:
    """The terminal in cbreak mode while the context lasts: keys come at once and are not echoed.

    Ctrl-C and Ctrl-Z stay signals.

    Args:
        terminal: An input that is a terminal.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._descriptor = terminal.fileno()
        self._before: list[Any] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begun = ""

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    def take(self) -> None:
        """Enter cbreak mode; what the terminal was like before is what `give_back` restores."""
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)

    def give_back(self) -> None:
        """Leave the terminal as it was, if it is still there."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def wait(self, other_descriptor: int, timeout_s: float) -> list[str]:
        """Wait for a key, for another descriptor, or for the time; return the keys that were pressed.

        Raises:
            EOFError: The terminal is gone.
        """
        wait_s = min(timeout_s, _ESCAPE_WAIT_S) if self._begun else timeout_s
        ready, _, _ = select.select([self._descriptor, other_descriptor], [], [], wait_s)
        if self._descriptor not in ready:
            begun, self._begun = self._begun, ""
            return ["esc"] if begun == "\x1b" else []
        try:
            received = os.read(self._descriptor, 1024)
        except OSError as error:  # the other end of a pseudo-terminal was closed
            raise EOFError from error
        if not received:
            raise EOFError
        keys, self._begun = decode(self._begun + self._decoder.decode(received))
        return keys
