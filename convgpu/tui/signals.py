# SPDX-License-Identifier: Apache-2.0
"""What the shell and the terminal have to say while the monitor runs: another size, stop for a while, end."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

from convgpu.tui.bell import Bell

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Notes signals and rings, so that the screen acts on them in its own time; use it as a context manager.

    Attributes:
        resized: The terminal has another size.
        suspended: Ctrl-Z.
        ended: Ctrl-C, or somebody else wants it to end.
    """

    def __init__(self, bell: Bell) -> None:
        self.resized = False
        self.suspended = False
        self.ended = False
        self._bell = bell
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, *_ENDING):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_here(self) -> None:
        """Stop as the shell expects it after Ctrl-Z; returns when the shell lets it go on."""
        self.suspended = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGTSTP:
            self.suspended = True
        elif number in _ENDING:
            self.ended = True
        else:
            self.resized = True  # after a stop the terminal may show something else: the same is to be done
        self._bell.ring()
