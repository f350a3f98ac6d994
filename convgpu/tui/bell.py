# SPDX-License-Identifier: Apache-2.0
"""Wakes the screen: what threads and signals have for it comes through one descriptor beside the keyboard's."""

from __future__ import annotations

import contextlib
import os
from typing import Final

_ROOM: Final = 4096


class Bell:
    """A pipe. Ringing never waits, so a signal handler may do it.

    Attributes:
        descriptor: Readable while it rings.
    """

    def __init__(self) -> None:
        self.descriptor, self._rope = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._rope, False)

    def ring(self) -> None:
        """Wake whoever waits for the descriptor."""
        # Full: nobody looked for a long time, and it rings already. Closed: a thread was late, nobody waits any more.
        with contextlib.suppress(OSError):
            os.write(self._rope, b"\n")

    def silence(self) -> None:
        """Take back all rings until now."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, _ROOM):
                pass
