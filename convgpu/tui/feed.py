# SPDX-License-Identifier: Apache-2.0
"""Snapshots as they come, fetched beside the screen so that a slow daemon never holds up a key."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from convgpu.api import Client
from convgpu.core.detail import ContainerDetail
from convgpu.core.status import Snapshot
from convgpu.errors import ConvgpuError, UnknownContainerError
from convgpu.tui.bell import Bell

_LEAVE_S: Final = 0.5
"""The longest that leaving the screen may take because of a daemon that does not answer."""
_AWAY_INTERVAL_S: Final = 1.0
"""The longest between two attempts to reach a daemon that is away."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The latest that is known.

    Attributes:
        snapshot: The last snapshot that came.
        received_s: When it came, on the monotonic clock.
        error: Why none has come since, or None.
        detail: What the daemon said of the container that is looked at closely; None: nothing, or nothing yet.
    """

    snapshot: Snapshot
    received_s: float
    error: str | None = None
    detail: ContainerDetail | None = None

    def notice(self, now_s: float, interval_s: float) -> str | None:
        """Say that the figures are old, or nothing while they are not."""
        age_s = now_s - self.received_s
        if self.error is not None:
            return f"figures are {age_s:.0f} s old, trying again: {self.error}"
        if age_s > max(3 * interval_s, 3.0):
            return f"figures are {age_s:.0f} s old: the daemon has not answered since"
        return None


class Feed:
    """A thread that asks for a snapshot again and again; use it as a context manager.

    A lost daemon is asked for again at every interval, at least each second.

    Args:
        path: The control socket.
        interval_s: Seconds between two snapshots.
        first: What to show until the first one comes.
        bell: Rings for each new reading.
    """

    def __init__(self, path: Path, interval_s: float, first: Snapshot, bell: Bell) -> None:
        self._path = path
        self._interval_s = interval_s
        self._looked_at: str | None = None
        self._reading = Reading(first, time.monotonic())
        self._stopping = False
        self._bell = bell
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        self._asked.set()
        self._thread.join(_LEAVE_S)  # one that still waits for an answer ends with the program

    def latest(self) -> Reading:
        """Return the latest reading."""
        return self._reading

    def ask(self, interval_s: float, looked_at: str | None, *, now: bool = False) -> None:
        """Say how often snapshots are wanted, and of which container more is wanted with each.

        What is new is asked for at once, and with `now` a snapshot in any case.
        """
        if now or (interval_s, looked_at) != (self._interval_s, self._looked_at):
            self._interval_s, self._looked_at = interval_s, looked_at
            self._asked.set()

    def _loop(self) -> None:
        client: Client | None = None
        while True:
            interval_s = self._interval_s if client is not None else min(self._interval_s, _AWAY_INTERVAL_S)
            self._asked.wait(interval_s)
            self._asked.clear()
            if self._stopping:
                break
            try:
                client = client or Client(self._path)
                self._reading = Reading(client.snapshot(), time.monotonic(), detail=self._detail(client))
            except ConvgpuError as error:
                self._reading = replace(self._reading, error=error.message)
                if client is not None:
                    client.close()
                client = None
            self._bell.ring()
        if client is not None:
            client.close()

    def _detail(self, client: Client) -> ContainerDetail | None:
        """Ask for more about the container that is looked at; of one that nobody knows now, keep what was known."""
        looked_at = self._looked_at
        if looked_at is None:
            return None
        try:
            return client.container_detail(looked_at)
        except UnknownContainerError:
            return self._reading.detail
