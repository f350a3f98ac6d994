# SPDX-License-Identifier: Apache-2.0
"""Why nobody waits for ever: the banker's criterion over vectors of devices.

A state is *safe* if the containers can be put in an order in which each, given what is free plus what those before it
give back when they end, reaches its limit on every device it uses. The engine hands out free memory only so that every
container that could finish before can still finish after. From a safe state this is the banker's rule. From an unsafe
one, which only the outside can cause (memory taken by force, capacity lost), it is the most that can be promised.

How much may container i get on device d? Whether and when i can finish does not depend on it: what i gets, it lacks
less. So only those that must finish *before* i is able to are constrained: each of them, at its turn, must find what
it lacks. Taking always the one that lacks least on d gives the loosest constraint, and one such sweep answers for
all containers at once. That is what `SafetyIndex` keeps, up to date and no further than it was asked for.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from convgpu.core.identity import ContainerId, GpuUuid


class Stake(NamedTuple):
    """One container on one device, in bytes.

    Attributes:
        assigned: What it gives back when it ends.
        missing: What it lacks to its limit, or to all of the device if that is less.
    """

    assigned: int
    missing: int


Stakes = Mapping[ContainerId, Mapping[GpuUuid, Stake]]
_Line = list[tuple[int, ContainerId]]


def run_to_end(free: Mapping[GpuUuid, int], stakes: Stakes) -> tuple[set[ContainerId], dict[GpuUuid, int]]:
    """Let containers reach their limits and end, in any order that works, until no more can.

    The result does not depend on the order, because every end only adds to what is available.

    Args:
        free: What is not assigned, by device; may be below zero.
        stakes: Every container's stake on every device it uses.

    Returns:
        The containers that can finish, and what is available after they have, by device.
    """
    available = dict(free)
    finished: set[ContainerId] = set()
    by_missing: dict[GpuUuid, _Line] = {gpu: [] for gpu in free}
    unmet: dict[ContainerId, int] = {}
    ready: list[ContainerId] = []
    for container, held in stakes.items():
        unmet[container] = 0
        for gpu, stake in held.items():
            if stake.missing:
                unmet[container] += 1
                by_missing[gpu].append((stake.missing, container))
        if not unmet[container]:
            ready.append(container)
    for line in by_missing.values():
        line.sort(reverse=True)  # the one that lacks least is last
    while True:
        for gpu, line in by_missing.items():
            while line and line[-1][0] <= available[gpu]:
                _, container = line.pop()
                unmet[container] -= 1
                if not unmet[container]:
                    ready.append(container)
        if not ready:
            return finished, available
        for container in ready:
            finished.add(container)
            for gpu, stake in stakes[container].items():
                available[gpu] += stake.assigned
        ready.clear()


def is_safe(free: Mapping[GpuUuid, int], stakes: Stakes) -> bool:
    """Whether every container can finish."""
    return len(run_to_end(free, stakes)[0]) == len(stakes)


@dataclass(slots=True)
class _LoneSweep:
    """The sweep over a device whose open containers use no other: sorted by what they lack, made as it is needed.

    `available[k]` is what k finished containers leave, `spare[k]` what could be given away and let those k finish.
    """

    order: _Line
    assigned: dict[ContainerId, int]
    available: list[int]
    spare: list[int]

    def grantable(self, missing: int) -> int:
        while self.available[-1] < missing and self.spare[-1] > 0:
            done = len(self.available) - 1
            if done == len(self.order) or self.order[done][0] > self.available[-1]:
                break  # nobody further can finish
            lacks, container = self.order[done]
            self.spare.append(min(self.spare[-1], self.available[-1] - lacks))
            self.available.append(self.available[-1] + self.assigned[container])
        reached = bisect_left(self.available, missing)
        return self.spare[min(reached, len(self.spare) - 1)]


class _JointSweep:
    """The same where containers use several devices: on `gpu` the one that lacks least first, as far as needed."""

    def __init__(
        self, gpu: GpuUuid, available: dict[GpuUuid, int], spare: int, stakes: Stakes, lines: Mapping[GpuUuid, _Line]
    ) -> None:
        self._gpu = gpu
        self._available = available
        self._spare = spare
        self._stakes = stakes
        self._cursors = {device: _Cursor(line) for device, line in lines.items()}
        self._met: dict[ContainerId, int] = {}  # on how many of its devices there is enough for it
        self._ready: _Line = []  # those for whom that is all of them, the one that lacks least on `gpu` first
        self._answers: dict[ContainerId, int] = {}
        self._advance()

    def grantable(self, container: ContainerId) -> int:
        while self._spare > 0 and container not in self._answers and self._ready:
            self._finish(heappop(self._ready))
            self._advance()
        return self._answers.get(container, self._spare)

    def _advance(self) -> None:
        for device, cursor in self._cursors.items():
            for container in cursor.up_to(self._available[device]):
                met = self._met[container] = self._met.get(container, 0) + 1
                held = self._stakes[container]
                if met == len(held):
                    self._answers[container] = self._spare
                    heappush(self._ready, (held[self._gpu].missing if self._gpu in held else 0, container))

    def _finish(self, ready: tuple[int, ContainerId]) -> None:
        missing, container = ready
        if missing:
            self._spare = min(self._spare, self._available[self._gpu] - missing)
        for device, stake in self._stakes[container].items():
            self._available[device] += stake.assigned


class _Cursor:
    """Walks a line of containers sorted by what they lack."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._next = 0

    def up_to(self, available: int) -> Iterator[ContainerId]:
        """Pass those that lack nothing, or no more than is available."""
        while self._next < len(self._line):
            missing, container = self._line[self._next]
            if missing and missing > available:
                return
            self._next += 1
            yield container


class SafetyIndex:
    """All stakes, with the answer to "how much may it get?" kept ready.

    A container that lacks nothing on any device can always end first, so only its sum matters; the others, the *open*
    ones, are kept sorted by what they lack, by device.

    Attributes:
        changes: Counts changes: while it stays the same, so do all answers.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._free: dict[GpuUuid, int] = {}
        self._stakes: dict[ContainerId, dict[GpuUuid, Stake]] = {}
        self._complete_bytes: dict[GpuUuid, int] = {}
        self._open: dict[GpuUuid, _Line] = {}
        self._open_assigned: dict[GpuUuid, dict[ContainerId, int]] = {}
        self._spanning = 0
        self._lone: dict[GpuUuid, _LoneSweep] = {}
        self._joint: dict[GpuUuid, _JointSweep] = {}

    @property
    def free(self) -> Mapping[GpuUuid, int]:
        """What is not assigned, by device."""
        return self._free

    @property
    def stakes(self) -> Stakes:
        """Every container's stakes."""
        return self._stakes

    def set_free(self, gpu: GpuUuid, free_bytes: int) -> None:
        """Note what is not assigned on a device; the first call makes the device known."""
        if gpu not in self._free:
            self._complete_bytes[gpu] = 0
            self._open[gpu] = []
            self._open_assigned[gpu] = {}
        self._free[gpu] = free_bytes
        self._forget(gpu)

    def put(self, container: ContainerId, gpu: GpuUuid, stake: Stake) -> None:
        """Note a container's stake on one device."""
        held = self._stakes.setdefault(container, {})
        if held.get(gpu) != stake:
            self._take_out(container)
            held[gpu] = stake
            self._take_in(container)

    def remove(self, container: ContainerId) -> None:
        """Forget a container that ended."""
        self._take_out(container)
        del self._stakes[container]

    def grantable(self, container: ContainerId, gpu: GpuUuid) -> int:
        """How much of what is free the container may be assigned so that all who can finish still can.

        Never more than it lacks.
        """
        free_bytes = self._free[gpu]
        held = self._stakes[container]
        missing = held[gpu].missing
        if free_bytes <= 0 or missing == 0:
            return 0
        if self._spanning:
            spare = self._joint_sweep(gpu).grantable(container)
        else:
            spare = self._lone_sweep(gpu).grantable(missing)
        return min(spare, free_bytes, missing)

    def _available(self, gpu: GpuUuid) -> int:
        return self._free[gpu] + self._complete_bytes[gpu]

    def _forget(self, gpu: GpuUuid) -> None:
        self.changes += 1
        self._lone.pop(gpu, None)
        self._joint.clear()

    def _is_open(self, container: ContainerId) -> bool:
        return any(stake.missing for stake in self._stakes[container].values())

    def _take_in(self, container: ContainerId) -> None:
        held = self._stakes[container]
        is_open = self._is_open(container)
        self._spanning += is_open and len(held) > 1
        for gpu, stake in held.items():
            if is_open:
                insort(self._open[gpu], (stake.missing, container))
                self._open_assigned[gpu][container] = stake.assigned
            else:
                self._complete_bytes[gpu] += stake.assigned
            self._forget(gpu)

    def _take_out(self, container: ContainerId) -> None:
        held = self._stakes[container]
        is_open = self._is_open(container)
        self._spanning -= is_open and len(held) > 1
        for gpu, stake in held.items():
            if is_open:
                line = self._open[gpu]
                del line[bisect_left(line, (stake.missing, container))]
                del self._open_assigned[gpu][container]
            else:
                self._complete_bytes[gpu] -= stake.assigned
            self._forget(gpu)

    def _lone_sweep(self, gpu: GpuUuid) -> _LoneSweep:
        if gpu not in self._lone:
            self._lone[gpu] = _LoneSweep(
                self._open[gpu], self._open_assigned[gpu], [self._available(gpu)], [self._free[gpu]]
            )
        return self._lone[gpu]

    def _joint_sweep(self, gpu: GpuUuid) -> _JointSweep:
        if gpu not in self._joint:
            available = {device: self._available(device) for device in self._free}
            self._joint[gpu] = _JointSweep(gpu, available, self._free[gpu], self._stakes, self._open)
        return self._joint[gpu]
