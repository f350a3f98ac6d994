# SPDX-License-Identifier: Apache-2.0
"""The stakes of all containers, and how much of what is free each of them may be given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from operator import add, le, sub
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety.device import Device
from convgpu.core.safety.order import NOTHING, Amounts, Holder
from convgpu.core.safety.stakes import Stake, Stakes
from convgpu.core.safety.sweep import Sweep

_NOTHING_ASKED: Final = (ContainerId(""), GpuUuid(""), 0)


class SafetyIndex:
    """All stakes, and the answers that follow from them.

    A container that lacks nothing on any device under the rule can end at any time: only what it gives back counts. The
    others are *open*.

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
        self._started = 0
        self._is_safe: bool | None = None
        self._asked = _NOTHING_ASKED
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
        return self._places.keys()

    # Changes.

    def start(self, container: ContainerId, missing: Mapping[GpuUuid, int]) -> None:
        """A container begins; nothing is assigned to it yet.

        Args:
            container: Its id.
            missing: What it lacks to its limit, or to all of the device if that is less, by device.
        """
        self._stakes[container] = {gpu: Stake(0, missing_bytes) for gpu, missing_bytes in missing.items()}
        self._take_in(self._new_holder(container))
        # All others can finish before it, and then all of every device is there. More than that it cannot lack.
        self._changed(stays_safe=True)

    def assign(self, container: ContainerId, gpu: GpuUuid, change_bytes: int, missing_bytes: int) -> None:
        """Move bytes from free to assigned, or back if below zero; so much is missing then: as much less, or more."""
        if change_bytes > 0:
            stays_safe = (container, gpu) == self._asked[:2] and change_bytes <= self._asked[2]
        else:  # it will find what it gives back, and others before it; unless that only fills what is below zero
            stays_safe = self._free[gpu] >= 0
        self._add_free(gpu, -change_bytes)
        self._put(container, gpu, Stake(self._stakes[container][gpu].assigned + change_bytes, missing_bytes))
        self._changed(gpu, stays_safe=stays_safe)

    def set_missing(self, container: ContainerId, gpu: GpuUuid, missing_bytes: int) -> None:
        """A container has another limit."""
        old = self._stakes[container][gpu]
        if missing_bytes != old.missing:
            self._put(container, gpu, Stake(old.assigned, missing_bytes))
            self._changed(gpu, stays_safe=missing_bytes <= old.missing)

    def set_free(self, gpu: GpuUuid, free_bytes: int) -> None:
        """There is more or less of a device; what is assigned stays."""
        more_bytes = free_bytes - self._free[gpu]
        self._add_free(gpu, more_bytes)
        self._changed(gpu, stays_safe=more_bytes >= 0)

    def remove(self, container: ContainerId) -> None:
        """A container ended: what was assigned to it is free."""
        for gpu, stake in self._stakes.pop(container).items():
            self._add_free(gpu, stake.assigned)
        self._take_out(self._holders.pop(container))
        self._changed(stays_safe=True)

    def set_ruled(self, ruled: Collection[GpuUuid]) -> None:
        """Have other devices under the rule."""
        self._begin(ruled)
        self._changed(stays_safe=False)

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
        at = self._places.get(gpu)
        if at is not None:
            holder = self._holders[container]
            most_bytes = self._devices[at].grantable(holder, most_bytes, self._base, is_safe=self.is_safe())
        self._asked = (container, gpu, most_bytes)
        return most_bytes

    def gives_nothing(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> bool:
        """Whether it can be seen at little cost that none of these can be given anything of the device.

        False does not mean that one of them can.
        """
        at = self._places.get(gpu)
        if self._free[gpu] <= 0 or at is None:
            return self._free[gpu] <= 0
        return self._devices[at].gives_nothing(waiting, self._base, is_safe=self.is_safe())

    def receivers(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> AbstractSet[ContainerId]:
        """Those of them that can be given something of the device, if they lack anything there."""
        at = self._places.get(gpu)
        if self._free[gpu] <= 0 or at is None:
            return waiting if self._free[gpu] > 0 else set()
        return self._devices[at].receivers(waiting, self._base, is_safe=self.is_safe())

    def is_safe(self) -> bool:
        """Whether all containers can finish, as far as the devices under the rule are concerned."""
        if self._is_safe is None:
            sweep = self._run_to_end(self._base)
            self._is_safe = sweep is None or sweep.is_enough or len(sweep.finished) == len(self._devices[0].order)
        return self._is_safe

    def is_tight(self, gpu: GpuUuid, taken_bytes: int = 0) -> bool:
        """Whether anybody lacks more of a device under the rule than could be had at once, if so much were taken."""
        at = self._places[gpu]
        return self._devices[at].line.most > self._base[at] - taken_bytes

    def available_without(self, container: ContainerId) -> dict[GpuUuid, int]:
        """What is available on the devices under the rule when all others have finished that can without this one."""
        holder = self._holders[container]
        base = self._base if holder.is_open else list(map(sub, self._base, holder.gives))
        sweep = self._run_to_end(base, without=holder if holder.is_open else None)
        if sweep is None:
            return {}
        available = sweep.available
        if sweep.is_enough:  # then it is for all, and all give back what they have
            available = list(map(add, base, self._open_gives))
            if holder.is_open:
                available = list(map(sub, available, holder.gives))
        return dict(zip(self._places, available, strict=True))

    # How.

    def _run_to_end(self, base: Amounts, without: Holder | None = None) -> Sweep | None:
        """Let all finish that can, or stop when there is enough for each; None: no device is under the rule."""
        if not self._devices:
            return None
        most = [device.line.most for device in self._devices]
        sweep = Sweep(self._devices[0].order.blocks, base, 0, 0, most, without)
        self._devices[0].order.learn(sweep.steps)
        return sweep

    def _begin(self, ruled: Collection[GpuUuid]) -> None:
        """Remember nothing but the stakes."""
        self._places = {gpu: at for at, gpu in enumerate(gpu for gpu in self._free if gpu in ruled)}
        self._base = [self._free[gpu] for gpu in self._places]
        self._open_gives = [0] * len(self._places)
        self._devices = [Device(at, len(self._places)) for at in self._places.values()]
        self._holders: dict[ContainerId, Holder] = {}
        self._is_safe = None
        for container in self._stakes:
            self._take_in(self._new_holder(container))

    def _changed(self, gpu: GpuUuid | None = None, *, stays_safe: bool) -> None:
        """Something has changed, on one device or on several; `stays_safe`: if all could finish, they still can."""
        self.changes += 1
        self._asked = _NOTHING_ASKED
        if self._is_safe is not True or not (stays_safe or (gpu is not None and gpu not in self._places)):
            self._is_safe = None
        for device in self._devices:
            device.forget()

    def _add_free(self, gpu: GpuUuid, change_bytes: int) -> None:
        self._free[gpu] += change_bytes
        at = self._places.get(gpu)
        if at is not None:
            self._base[at] += change_bytes

    def _new_holder(self, container: ContainerId) -> Holder:
        width = len(self._places)
        self._started += 1
        holder = Holder(container, [0] * width, [NOTHING] * width, self._started)
        for gpu, stake in self._stakes[container].items():
            at = self._places.get(gpu)
            if at is not None:
                holder.gives[at], holder.lacks[at] = stake.assigned, stake.missing or NOTHING
        self._holders[container] = holder
        return holder

    def _put(self, container: ContainerId, gpu: GpuUuid, stake: Stake) -> None:
        self._stakes[container][gpu] = stake
        at = self._places.get(gpu)
        if at is None:
            return
        holder = self._holders[container]
        gives, lacks = stake.assigned, stake.missing or NOTHING
        if not holder.is_open or max([lacks, *holder.lacks[:at], *holder.lacks[at + 1 :]]) <= 0:
            self._take_out(holder)
            holder.gives[at], holder.lacks[at] = gives, lacks
            self._take_in(holder)
            return
        more_bytes = gives - holder.gives[at]
        self._open_gives[at] += more_bytes
        self._devices[at].line.remove(holder)
        holder.gives[at], holder.lacks[at] = gives, lacks
        self._devices[at].line.add(holder)
        for device in self._devices:
            device.change(holder, at, more_bytes)

    def _take_in(self, holder: Holder) -> None:
        if not holder.is_open:
            self._base = list(map(add, self._base, holder.gives))
            return
        self._open_gives = list(map(add, self._open_gives, holder.gives))
        first = all(map(le, holder.lacks, self._base))
        for device in self._devices:
            device.add(holder, first=first)

    def _take_out(self, holder: Holder) -> None:
        if not holder.is_open:
            self._base = list(map(sub, self._base, holder.gives))
            return
        self._open_gives = list(map(sub, self._open_gives, holder.gives))
        for device in self._devices:
            device.remove(holder)
