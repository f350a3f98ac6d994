# SPDX-License-Identifier: Apache-2.0
"""Events as they come, followed beside the screen; a daemon that goes away is followed again when it is back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from convgpu.api import Client
from convgpu.core.events import LogEvent
from convgpu.errors import ConvgpuError, DaemonUnavailableError
from convgpu.tui.bell import Bell

EVENTS_KEPT: Final = 500
_TOPICS: Final = ("decision", "start", "limit", "container", "finding", "capacity", "config", "daemon", "other")
"""All but processes that come and go."""
_AGAIN_S: Final = 1.0


class News:
    """A thread that follows the daemon's events; use it as a context manager.

    Grants at once are left out: there may be thousands a second, and they are not what one looks for.

    Args:
        path: The control socket.
        bell: Rings when something happened.

    Attributes:
        trouble: Why nothing is told although the daemon answers: it is of another version; None: nothing is wrong.
    """

    def __init__(self, path: Path, bell: Bell) -> None:
        self._path = path
        self._bell = bell
        self.trouble: str | None = None
        self._events: deque[LogEvent] = deque(maxlen=EVENTS_KEPT)
        self._known = (0, "")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="news", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()  # it waits for the next batch, and ends with the program

    def latest(self) -> tuple[LogEvent, ...]:
        """Return what is known, oldest first."""
        return tuple(self._events)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                with Client(self._path) as client:
                    for batch in client.events(last=EVENTS_KEPT, topics=_TOPICS, grants=False):
                        if self._stopping.is_set():
                            return
                        self.trouble = None
                        self._add(batch.events)
            except DaemonUnavailableError:  # the feed of snapshots has the same trouble, and it says so
                self._stopping.wait(_AGAIN_S)
            except ConvgpuError as error:
                self.trouble = f"no events: {error.message}"
                self._stopping.wait(_AGAIN_S)

    def _add(self, events: Iterable[LogEvent]) -> None:
        """Keep what is new: a daemon that is asked again begins with what it told before.

        Later is what is later in the log or, where a new log was begun, by the clock.
        """
        seq, ts = self._known
        new = [event for event in events if event.seq is None or event.seq > seq or event.ts > ts]
        if new:
            self._known = (new[-1].seq or seq, new[-1].ts)
            self._events.extend(new)
            self._bell.ring()
