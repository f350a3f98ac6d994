# SPDX-License-Identifier: Apache-2.0
"""The event loop's way of waiting: awake for a moment after a client was heard, because it will be heard again.

A program that allocates asks several times within a millisecond. To sleep between two questions costs each of them a
wake-up: some ten microseconds on a machine of its own, fifty in a virtual one, more than the decision itself. So after
a client's message the loop looks for the next one for `AWAKE_NS` before it sleeps. That is the most that a message can
cost beside its own work, and a daemon that nobody asks sleeps.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from typing import Final

AWAKE_NS: Final = 200_000
"""The time between two questions of a program that allocates in a loop: its cudaMalloc takes 60 us on an H100."""


class WakefulSelector(selectors.DefaultSelector):
    """A selector that does not sleep at once."""

    def __init__(self) -> None:
        super().__init__()
        self._awake_ns = AWAKE_NS if len(os.sched_getaffinity(0)) > 1 else 0
        self._awake_until_ns = 0

    def stay_awake(self) -> None:
        """A client was heard."""
        self._awake_until_ns = time.monotonic_ns() + self._awake_ns

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what is registered, as every selector does."""
        if timeout is None or timeout > 0:
            while time.monotonic_ns() < self._awake_until_ns:
                events = super().select(0)
                if events:
                    return events
        return super().select(timeout)


class WakefulEventLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with that selector."""

    def __init__(self) -> None:
        self._wakeful = WakefulSelector()
        super().__init__(self._wakeful)

    def stay_awake(self) -> None:
        """A client was heard: the next question may follow at once."""
        self._wakeful.stay_awake()


def stay_awake(loop: asyncio.AbstractEventLoop) -> None:
    """Tell a loop that a client was heard; any other kind of loop sleeps as it likes."""
    if isinstance(loop, WakefulEventLoop):
        loop.stay_awake()
