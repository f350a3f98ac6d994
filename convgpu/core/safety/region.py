# SPDX-License-Identifier: Apache-2.0
"""Devices that containers connect, and who may be given how much of them.

What happens on devices that no container connects with these, in one step or in several, changes nothing here: nobody
here can wait for anybody there. So each region answers from its own containers alone, and remembers what it found out
while others change. On a machine where each container uses one device, each device is a region of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from operator import add, le, sub

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety.device import Device
from convgpu.core.safety.order import NOTHING, Amounts, Holder
from convgpu.core.safety.stakes import Stake
from convgpu.core.safety.sweep import Sweep


class Region:
    """The containers of some devices under the rule.

    A container that lacks nothing on any of them can end at any time: only what it gives back counts. The others are
    *open*.

    Args:
        free: What is not assigned, by device, in a fixed order; at least one device.
    """

    def __init__(self, free: Mapping[GpuUuid, int]) -> None:
        self._places = {gpu: at for at, gpu in enumerate(free)}
        self._base = list(free.values())
        self._open_gives = [0] * len(self._places)
        self._devices = [Device(at, len(self._places)) for at in self._places.values()]
        self._holders: dict[ContainerId, Holder] = {}
        self._started = 0
        self._is_safe: bool | None = None

    @property
    def gpus(self) -> AbstractSet[GpuUuid]:
        """Its devices."""
        return self._places.keys()

    @property
    def containers(self) -> Collection[ContainerId]:
        """Those that use any of its devices, in the order in which they were taken in."""
        return self._holders.keys()

    # Changes.

    def start(self, container: ContainerId, stakes: Mapping[GpuUuid, Stake]) -> None:
        """A container begins, or comes from another region; stakes on other devices do not count here."""
        width = len(self._places)
        self._started += 1
        holder = Holder(container, [0] * width, [NOTHING] * width, self._started)
        for gpu, stake in stakes.items():
            at = self._places.get(gpu)
            if at is not None:
                holder.gives[at], holder.lacks[at] = stake.assigned, stake.missing or NOTHING
        self._holders[container] = holder
        self._take_in(holder)

    def remove(self, container: ContainerId) -> None:
        """A container ended; what it gives back is told by `add_free`."""
        self._take_out(self._holders.pop(container))

    def put(self, container: ContainerId, gpu: GpuUuid, stake: Stake) -> None:
        """A container has another stake."""
        at = self._places[gpu]
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

    def add_free(self, gpu: GpuUuid, change_bytes: int) -> None:
        """There is more of a device that is not assigned, or less if below zero."""
        self._base[self._places[gpu]] += change_bytes

    def changed(self, *, stays_safe: bool) -> None:
        """To be called after changes; `stays_safe`: if all could finish before, they still can."""
        if self._is_safe is not True or not stays_safe:
            self._is_safe = None
        for device in self._devices:
            device.forget()

    # Questions.

    def grantable(self, container: ContainerId, gpu: GpuUuid, wanted_bytes: int) -> int:
        """How much of what is wanted, free and lacking the container may be given so that all who can finish can."""
        device = self._devices[self._places[gpu]]
        return device.grantable(self._holders[container], wanted_bytes, self._base, is_safe=self.is_safe())

    def gives_nothing(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> bool:
        """Whether it can be seen at little cost that none of these can be given anything of a device."""
        return self._devices[self._places[gpu]].gives_nothing(waiting, self._base, is_safe=self.is_safe())

    def receivers(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> AbstractSet[ContainerId]:
        """Those of them that can be given something of a device of which something is free."""
        return self._devices[self._places[gpu]].receivers(waiting, self._base, is_safe=self.is_safe())

    def is_safe(self) -> bool:
        """Whether all of its containers can finish, as far as its devices are concerned."""
        if self._is_safe is None:
            sweep = self._run_to_end(self._base)
            self._is_safe = sweep.is_enough or len(sweep.finished) == len(self._devices[0].order)
        return self._is_safe

    def most_missing(self, gpu: GpuUuid) -> int:
        """The most of a device that any of its containers lacks; below zero if none lacks any."""
        return self._devices[self._places[gpu]].line.most

    def available_without(self, container: ContainerId) -> dict[GpuUuid, int]:
        """What is available, by device, when all others have finished that can without this one."""
        holder = self._holders[container]
        base = self._base if holder.is_open else list(map(sub, self._base, holder.gives))
        sweep = self._run_to_end(base, without=holder if holder.is_open else None)
        available = sweep.available
        if sweep.is_enough:  # then it is for all, and all give back what they have
            available = list(map(add, base, self._open_gives))
            if holder.is_open:
                available = list(map(sub, available, holder.gives))
        return dict(zip(self._places, available, strict=True))

    # How.

    def _run_to_end(self, base: Amounts, without: Holder | None = None) -> Sweep:
        """Let all finish that can, or stop when there is enough for each."""
        most = [device.line.most for device in self._devices]
        sweep = Sweep(self._devices[0].order.blocks, base, 0, 0, most, without)
        self._devices[0].order.learn(sweep.steps)
        return sweep

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
