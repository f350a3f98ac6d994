# SPDX-License-Identifier: Apache-2.0
"""Who was passed over, how often, and who is next because of it whatever the algorithm says.

A party that waits is *passed over* whenever something of its device is given to a container that has not waited longer
and that either started later, or takes again what it had before and gave back. (The first thing that a container is
given, on whatever device, counts on all of its devices: from then on it must be able to finish.) A container that
started earlier and is on its way to its limit passes nobody over: there are finitely many of these, each takes no more
than its limit on the way, and what it holds comes back the sooner for it. After `max_bypass` of these a party is
*overdue*: it goes before all that could pass it over, whatever the algorithm says.

To go before them would not be enough. What is free may be unsafe to give to it, because containers that hold memory
must finish first; they may go on, or nobody ever would. But containers that only start now could take, one after
another, what it waits for. So a container that starts while somebody on one of its devices is overdue is *held back*:
it is given nothing, on any device, until those have had their turn. Nobody can depend on it, because it holds nothing:
the others are exactly as safe without it. So the parties that can go before an overdue one are those that were there
already, and they are finitely many.

A party whose own group lets it have no more waits for that group alone. What is given to containers outside of it
passes it over no more than what is given on another device, and nobody outside is held back for it meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid, GroupName

DEFAULT_MAX_BYPASS: Final = 64
"""Large enough that an algorithm's own order decides on every day, small enough that nobody waits for weeks."""

_by_arrival = attrgetter("since")
_by_start = attrgetter("seniority")


@dataclass(slots=True, eq=False)
class Place:
    """A party that waits: a container for memory of one device, or for its start on all of its devices.

    Attributes:
        since: When it began, and a number that makes it unique.
        seniority: The number of its container's start.
        passed: How often it was passed over.
        overdue: So often that it goes before all that could pass it over; `Bypass` keeps it.
        path: The groups of its container.
    """

    container: ContainerId
    gpus: tuple[GpuUuid, ...]
    since: tuple[int, int]
    seniority: int
    passed: int = 0
    overdue: bool = False
    path: tuple[GroupName, ...] = ()


class Bypass:
    """Counts for all devices.

    Args:
        max_bypass: How often a party may be passed over; 0: without bound, as in the paper.

    Attributes:
        changes: Counts how often somebody stopped being held back: while it stays the same, nobody did.
        shuts_in: Whether a group keeps a place waiting that is none of these: what is given to containers of these
            takes nothing from it.
    """

    def __init__(self, max_bypass: int) -> None:
        self.changes = 0
        self.shuts_in: Callable[[Place, Sequence[GroupName]], bool] = lambda *_: False
        self._max_bypass = max_bypass
        self._waiting: dict[GpuUuid, list[Place]] = {}
        self._overdue: dict[GpuUuid, list[Place]] = {}
        self._behind: dict[ContainerId, set[Place]] = {}
        self._paths: dict[ContainerId, tuple[GroupName, ...]] = {}
        """The groups of those that were held back."""
        self._turns: dict[GpuUuid, int] = {}
        self._passed: dict[Place, None] = {}

    def turn(self, gpu: GpuUuid) -> int:
        """How often something of the device was given away."""
        return self._turns.get(gpu, 0)

    def restore_turn(self, gpu: GpuUuid, turn: int) -> None:
        """Go on counting where an earlier daemon stopped."""
        self._turns[gpu] = turn

    def begin(self, place: Place) -> None:
        """A party begins to wait."""
        for gpu in place.gpus:
            insort(self._waiting.setdefault(gpu, []), place, key=_by_arrival)
        self._look_at(place)

    def end(self, place: Place) -> None:
        """It had its turn, or waits no more."""
        for gpu in place.gpus:
            line = self._waiting[gpu]
            del line[bisect_left(line, place.since, key=_by_arrival)]
        self._let_go(place)

    def given(
        self,
        gpu: GpuUuid,
        container: ContainerId,
        place: Place | None,
        *,
        seniority: int,
        again: bool,
        path: tuple[GroupName, ...] = (),
    ) -> None:
        """Something of the device was given away.

        Args:
            gpu: Of which device.
            container: To which container.
            place: Where it waited; None: it did not.
            seniority: The number of its start.
            again: It had as much before.
            path: The groups of the container.
        """
        self._turns[gpu] = self._turns.get(gpu, 0) + 1
        for other in self._waiting.get(gpu, ()):
            if place is not None and other.since >= place.since:
                break
            if other.container != container and (again or seniority > other.seniority):
                if other.path and other.path != path and self.shuts_in(other, path):
                    continue
                other.passed += 1
                self._passed[other] = None
                self._look_at(other)

    def take_passed(self) -> tuple[Place, ...]:
        """Return those that were passed over since the last call."""
        if not self._passed:
            return ()
        passed = tuple(self._passed)
        self._passed.clear()
        return passed

    def set_max_bypass(self, max_bypass: int) -> None:
        """Replace the bound; who is overdue follows from the counts so far."""
        self._max_bypass = max_bypass
        places = {place: None for line in self._waiting.values() for place in line}
        for place in sorted(places, key=_by_arrival):
            self._look_at(place)
        for place in places:
            if not self._is_due(place):
                self._let_go(place)

    def is_overdue(self, place: Place) -> bool:
        """Whether it was passed over so often that it goes before all that could pass it over."""
        return place.overdue

    def overdue(self, gpu: GpuUuid) -> Sequence[Place]:
        """Those that are overdue on a device, the one that started first first."""
        return self._overdue.get(gpu, ())

    def start(self, container: ContainerId, gpus: Iterable[GpuUuid], path: tuple[GroupName, ...] = ()) -> None:
        """A container starts, in these groups: behind those on its devices that are overdue now."""
        behind = {place for gpu in gpus for place in self.overdue(gpu)}
        if behind:
            self._behind[container] = behind
            self._paths[container] = path

    def is_held_back(self, container: ContainerId) -> bool:
        """Whether it must not be given anything yet."""
        behind = self._behind.get(container)
        if behind is None:
            return False
        path = self._paths.get(container, ())
        return not all(place.path and place.path != path and self.shuts_in(place, path) for place in behind)

    def behind(self, container: ContainerId) -> tuple[ContainerId, ...]:
        """For whom it is held back."""
        return tuple(sorted({place.container for place in self._behind.get(container, ())}))

    def forget(self, container: ContainerId) -> None:
        """A container ended, or holds something although it was held back: holding it back is over."""
        if self._behind.pop(container, None) is not None:
            del self._paths[container]
            self.changes += 1

    def _is_due(self, place: Place) -> bool:
        return 0 < self._max_bypass <= place.passed

    def _look_at(self, place: Place) -> None:
        if not place.overdue and self._is_due(place):
            place.overdue = True
            for gpu in place.gpus:
                insort(self._overdue.setdefault(gpu, []), place, key=_by_start)

    def _let_go(self, place: Place) -> None:
        """It is overdue no more: whoever is held back for it alone may go on."""
        if not place.overdue:
            return
        place.overdue = False
        for gpu in place.gpus:
            self._overdue[gpu].remove(place)
        for container, places in tuple(self._behind.items()):
            places.discard(place)
            if not places:
                del self._behind[container], self._paths[container]
                self.changes += 1
