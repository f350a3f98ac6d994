# SPDX-License-Identifier: Apache-2.0
"""Snapshots as they come, fetched beside the screen so that a slow daemon never holds up a key."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from convgpu.api import Client
from convgpu.core.status import Snapshot
from convgpu.errors import ConvgpuError

_LEAVE_S: Final = 0.5
"""The longest that leaving the screen may take because of a daemon that does not answer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The latest that is known.

    Attributes:
        snapshot: The last snapshot that came.
        received_s: When it came, on the monotonic clock.
        error: Why none has come since, or None.
    """

    snapshot: Snapshot
    received_s: float
    error: str | None = None

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

    A lost daemon is asked for again at every interval. A byte appears at `descriptor` for each new reading, so that
    the screen can wait for keys and readings at once.

    Args:
        path: The control socket.
        interval_s: Seconds between two snapshots.
        first: What to show until the first one comes.
    """

    def __init__(self, path: Path, interval_s: float, first: Snapshot) -> None:
        self._path = path
        self._interval_s = interval_s
        self._reading = Reading(first, time.monotonic())
        self._stopping = threading.Event()
        self.descriptor, self._bell = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._bell, False)
        self._thread = threading.Thread(target=self._loop, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(_LEAVE_S)
        if not self._thread.is_alive():  # else it still waits for an answer, and ends with the program
            os.close(self.descriptor)
            os.close(self._bell)

    def latest(self) -> Reading:
        """Return the latest reading and silence the bell."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass
        return self._reading

    def _loop(self) -> None:
        client: Client | None = None
        while not self._stopping.wait(self._interval_s):
            try:
                client = client or Client(self._path)
                self._reading = Reading(client.snapshot(), time.monotonic())
            except ConvgpuError as error:
                self._reading = Reading(self._reading.snapshot, self._reading.received_s, error.message)
                if client is not None:
                    client.close()
                client = None
            self._ring()
        if client is not None:
            client.close()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # nobody looked for a long time: the bell is ringing already
            os.write(self._bell, b"\n")
