# SPDX-License-Identifier: Apache-2.0
"""Containers whose start waits until the whole guarantee is there (`--admit=wait`), on all of their devices at once.

They hold nothing while they wait, so they can be part of no deadlock. Whoever came first is looked at first; one that
does not fit lets later ones go ahead, as often as `max_bypass` allows.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from convgpu.core.bypass import Bypass, Place
from convgpu.core.identity import ContainerId
from convgpu.core.ledger import Holding


@dataclass(frozen=True, slots=True)
class PendingStart:
    """A start that waits.

    Attributes:
        place: Since when, and how often it was passed over.
        deadline_ns: When it is given up; None: never.
    """

    holdings: tuple[Holding, ...]
    place: Place
    deadline_ns: int | None

    @property
    def container(self) -> ContainerId:
        """Which container is to start."""
        return self.place.container


class Admission:
    """All starts that wait.

    Args:
        bypass: Where they take their places.
    """

    def __init__(self, bypass: Bypass) -> None:
        self._bypass = bypass
        self._pending: list[PendingStart] = []

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingStart]:
        return iter(tuple(self._pending))

    def add(self, start: PendingStart) -> None:
        """A container begins to wait for its start."""
        insort(self._pending, start, key=attrgetter("place.since"))
        self._bypass.begin(start.place)

    def find(self, container: ContainerId) -> PendingStart | None:
        """The start of this container, if it waits."""
        return next((start for start in self._pending if start.container == container), None)

    def drop(self, start: PendingStart) -> None:
        """It has started, or waits no more."""
        self._pending.remove(start)
        self._bypass.end(start.place)

    def next_deadline_ns(self) -> int | None:
        """The earliest deadline."""
        return min((start.deadline_ns for start in self._pending if start.deadline_ns is not None), default=None)

    def expired(self, now_ns: int) -> tuple[PendingStart, ...]:
        """Those whose deadline has come."""
        return tuple(start for start in self._pending if start.deadline_ns is not None and start.deadline_ns <= now_ns)
