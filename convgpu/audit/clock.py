# SPDX-License-Identifier: Apache-2.0
"""The clock of the log: wall time for people, monotonic time for order, and the boot that both belong to."""

from __future__ import annotations

import time
from calendar import timegm
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What a writer needs to know about time."""

    boot_id: str

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, the clock that the eBPF side stamps its events with."""
        ...


class SystemClock:
    """The machine's own."""

    def __init__(self) -> None:
        self.boot_id = _BOOT_ID.read_text(encoding="ascii").strip()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()


JUMP_NS: Final = 500_000_000
"""From this on a change of the wall clock against the monotonic one is a jump. Slewing is far below."""


class ClockWatch:
    """Notices that the wall clock was set, or that the machine slept.

    Args:
        clock: The clock of the log.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ns = self._offset()

    def jump_ns(self) -> int | None:
        """Return how far the wall clock has jumped since the last look, ahead or (negative) back; None: it has not."""
        before_ns, self._offset_ns = self._offset_ns, self._offset()
        jump_ns = self._offset_ns - before_ns
        return jump_ns if abs(jump_ns) >= JUMP_NS else None

    def _offset(self) -> int:
        return self._clock.wall_ns() - self._clock.monotonic_ns()


def format_timestamp(wall_ns: int) -> str:
    """Write nanoseconds since 1970 as RFC 3339 in UTC with all nine digits, such as 2026-01-31T12:00:00.000000001Z."""
    seconds, nanoseconds = divmod(wall_ns, 1_000_000_000)
    return f"{_format_seconds(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=4)
def _format_seconds(seconds: int) -> str:
    t = time.gmtime(seconds)
    return f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def parse_timestamp(text: str) -> int:
    """Read what `format_timestamp` writes, as nanoseconds since 1970.

    Raises:
        ValueError: It is not of that form.
    """
    seconds, point, rest = text.partition(".")
    if not point or len(rest) != 10 or rest[9] != "Z" or not rest[:9].isdigit():
        raise ValueError(f"'{text}' is not a time stamp of the log")
    return _parse_seconds(seconds) + int(rest[:9])


@lru_cache(maxsize=64)
def _parse_seconds(text: str) -> int:
    return timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) * 1_000_000_000
