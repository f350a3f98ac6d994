# SPDX-License-Identifier: Apache-2.0
"""The stakes of all containers, and how much of what is free each of them may be given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety.region import Region
from convgpu.core.safety.stakes import Stake, Stakes

_NOTHING_ASKED: Final = (ContainerId(""), GpuUuid(""), 0)

_PATIENCE: Final = 1000
"""So many changes a region stays whole after nothing connects all of its devices any more. To make one takes as long as
some hundred decisions, and where a container has connected two devices, another one often does soon."""


class SafetyIndex:
    """All stakes, and the answers that follow from them.

    Args:
        free: What is not assigned, by device.
        ruled: The devices under the rule.

    Attributes:
        changes: Counts changes: while it stays the same, so do all answers.
    """

    def __init__(self, free: Mapping[GpuUuid, int], ruled: Collection[GpuUuid]) -> None:
        self.changes = 0
        self._free = dict(free)
        self._stakes: dict[ContainerId, dict[GpuUuid, Stake]] = {}
        self._asked = _NOTHING_ASKED
        self._regions: dict[GpuUuid, Region] = {}
        self._connections: Counter[frozenset[GpuUuid]] = Counter()
        self._regroup_at: int | None = None
        self._begin(ruled)

    @property
    def free(self) -> Mapping[GpuUuid, int]:
        """What is not assigned, by device."""
        return self._free

    @property
    def stakes(self) -> Stakes:
        """Every container's stakes."""
        return self._stakes

    @property
    def ruled(self) -> Collection[GpuUuid]:
        """The devices under the rule."""
        return self._regions.keys()

    # Changes.

    def start(self, container: ContainerId, missing: Mapping[GpuUuid, int]) -> None:
        """A container begins; nothing is assigned to it yet.

        Args:
            container: Its id.
            missing: What it lacks to its limit, or to all of the device if that is less, by device.
        """
        stakes = {gpu: Stake(0, missing_bytes) for gpu, missing_bytes in missing.items()}
        region = self._region_for(stakes.keys() & self._regions.keys())
        self._stakes[container] = stakes
        if region is not None:
            region.start(container, stakes)
        # All others can finish before it, and then all of every device is there. More than that it cannot lack.
        self._changed(region, stays_safe=True)

    def assign(self, container: ContainerId, gpu: GpuUuid, change_bytes: int, missing_bytes: int) -> None:
        """Move bytes from free to assigned, or back if below zero; so much is missing then: as much less, or more."""
        if change_bytes > 0:
            stays_safe = (container, gpu) == self._asked[:2] and change_bytes <= self._asked[2]
        else:  # it will find what it gives back, and others before it; unless that only fills what is below zero
            stays_safe = self._free[gpu] >= 0
        self._add_free(gpu, -change_bytes)
        self._put(container, gpu, Stake(self._stakes[container][gpu].assigned + change_bytes, missing_bytes))
        self._changed(self._regions.get(gpu), stays_safe=stays_safe)

    def set_missing(self, container: ContainerId, gpu: GpuUuid, missing_bytes: int) -> None:
        """A container has another limit."""
        old = self._stakes[container][gpu]
        if missing_bytes != old.missing:
            self._put(container, gpu, Stake(old.assigned, missing_bytes))
            self._changed(self._regions.get(gpu), stays_safe=missing_bytes <= old.missing)

    def set_free(self, gpu: GpuUuid, free_bytes: int) -> None:
        """There is more or less of a device; what is assigned stays."""
        more_bytes = free_bytes - self._free[gpu]
        self._add_free(gpu, more_bytes)
        self._changed(self._regions.get(gpu), stays_safe=more_bytes >= 0)

    def remove(self, container: ContainerId) -> None:
        """A container ended: what was assigned to it is free."""
        stakes = self._stakes.pop(container)
        ruled = stakes.keys() & self._regions.keys()
        for gpu, stake in stakes.items():
            self._add_free(gpu, stake.assigned)
        region = self._regions[min(ruled)] if ruled else None
        if region is not None:
            region.remove(container)
            self._disconnect(frozenset(ruled))
        self._changed(region, stays_safe=True)

    def set_ruled(self, ruled: Collection[GpuUuid]) -> None:
        """Have other devices under the rule."""
        self._begin(ruled)
        self.changes += 1
        self._asked = _NOTHING_ASKED

    # Questions.

    def grantable(self, container: ContainerId, gpu: GpuUuid, wanted_bytes: int | None = None) -> int:
        """How much of what is free the container may be given so that all who can finish still can.

        Never more than it lacks, nor than is wanted; None: all that can be had.
        """
        most_bytes = min(self._free[gpu], self._stakes[container][gpu].missing)
        if wanted_bytes is not None:
            most_bytes = min(most_bytes, wanted_bytes)
        if most_bytes <= 0:
            return 0
        region = self._regions.get(gpu)
        if region is not None:
            most_bytes = region.grantable(container, gpu, most_bytes)
        self._asked = (container, gpu, most_bytes)
        return most_bytes

    def gives_nothing(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> bool:
        """Whether it can be seen at little cost that none of these can be given anything of the device.

        False does not mean that one of them can.
        """
        region = self._regions.get(gpu)
        if self._free[gpu] <= 0 or region is None:
            return self._free[gpu] <= 0
        return region.gives_nothing(gpu, waiting)

    def receivers(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> AbstractSet[ContainerId]:
        """Those of them that can be given something of the device, if they lack anything there."""
        region = self._regions.get(gpu)
        if self._free[gpu] <= 0 or region is None:
            return waiting if self._free[gpu] > 0 else set()
        return region.receivers(gpu, waiting)

    def is_safe(self) -> bool:
        """Whether all containers can finish, as far as the devices under the rule are concerned."""
        return all(region.is_safe() for region in self._each_region())

    def is_tight(self, gpu: GpuUuid, taken_bytes: int = 0) -> bool:
        """Whether anybody lacks more of a device under the rule than is free, if so much were taken of it."""
        return self._regions[gpu].most_missing(gpu) > self._free[gpu] - taken_bytes

    def available_without(self, container: ContainerId) -> dict[GpuUuid, int]:
        """What is available on its devices under the rule when all others have finished that can without this one."""
        stakes = self._stakes[container]
        ruled = stakes.keys() & self._regions.keys()
        if not ruled:
            return {}
        available = self._regions[min(ruled)].available_without(container)
        return {gpu: available[gpu] for gpu in stakes if gpu in ruled}

    # How.

    def _begin(self, ruled: Collection[GpuUuid]) -> None:
        """Remember nothing but the stakes."""
        self._regions = {gpu: Region({gpu: self._free[gpu]}) for gpu in self._free if gpu in ruled}
        self._connections.clear()
        self._regroup_at = None
        used = [stakes.keys() & self._regions.keys() for stakes in self._stakes.values()]
        for gpus in used:
            self._region_for(gpus)
        for (container, stakes), gpus in zip(self._stakes.items(), used, strict=True):
            if gpus:
                self._regions[min(gpus)].start(container, stakes)

    def _each_region(self) -> Iterable[Region]:
        return dict.fromkeys(self._regions.values())

    def _changed(self, region: Region | None, *, stays_safe: bool) -> None:
        """Something has changed, in one region or on a device without the rule."""
        self.changes += 1
        self._asked = _NOTHING_ASKED
        if region is not None:
            region.changed(stays_safe=stays_safe)
        if self._regroup_at is not None and self.changes >= self._regroup_at:
            self._regroup_at = None
            if self._is_loose():
                self._begin(self._regions.keys())

    def _add_free(self, gpu: GpuUuid, change_bytes: int) -> None:
        self._free[gpu] += change_bytes
        region = self._regions.get(gpu)
        if region is not None:
            region.add_free(gpu, change_bytes)

    def _put(self, container: ContainerId, gpu: GpuUuid, stake: Stake) -> None:
        self._stakes[container][gpu] = stake
        region = self._regions.get(gpu)
        if region is not None:
            region.put(container, gpu, stake)

    def _region_for(self, gpus: AbstractSet[GpuUuid]) -> Region | None:
        """The region of a container that connects these devices, made of several if need be; None: no device counts."""
        if not gpus:
            return None
        self._connections[frozenset(gpus)] += 1
        regions = {self._regions[gpu] for gpu in gpus}
        if len(regions) == 1:
            return regions.pop()
        joined = {gpu for region in regions for gpu in region.gpus}
        whole = Region({gpu: size for gpu, size in self._free.items() if gpu in joined})
        members = {container for region in regions for container in region.containers}
        for container, stakes in self._stakes.items():
            if container in members:
                whole.start(container, stakes)
        self._regions.update(dict.fromkeys(joined, whole))
        return whole

    def _is_loose(self) -> bool:
        """Whether a region could be several now."""
        groups: list[frozenset[GpuUuid]] = [frozenset((gpu,)) for gpu in self._regions]
        for connected in self._connections:
            apart = [group for group in groups if group.isdisjoint(connected)]
            groups = [*apart, connected.union(*(group for group in groups if group not in apart))]
        return len(groups) > len(set(self._regions.values()))

    def _disconnect(self, gpus: frozenset[GpuUuid]) -> None:
        """A container that connected these devices is gone: perhaps they need not stay one region."""
        self._connections[gpus] -= 1
        if not self._connections[gpus]:
            del self._connections[gpus]
            if len(gpus) > 1 and self._regroup_at is None:
                self._regroup_at = self.changes + _PATIENCE
