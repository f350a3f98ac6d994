# SPDX-License-Identifier: Apache-2.0
"""One device under the rule: how much of it may be given to whom, from what is remembered about it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from operator import le

from convgpu.core.identity import ContainerId
from convgpu.core.safety.line import Line
from convgpu.core.safety.order import Amounts, Holder, Order
from convgpu.core.safety.sweep import Sweep
from convgpu.core.safety.wall import Wall


class Device:
    """What is remembered for one device.

    Args:
        at: Which one, in all amounts.
        width: How many devices are under the rule.

    Attributes:
        order: In which all open holders could finish; good for giving away something of this device.
        line: All open holders, as this device sees them.
    """

    def __init__(self, at: int, width: int) -> None:
        self.order = Order(width)
        self.line = Line(at)
        self._at = at
        self._wall: Wall | None = None
        self._in_reach: AbstractSet[ContainerId] | None = None

    def forget(self) -> None:
        """Something has changed on any device: what was found out about the state before does not hold."""
        self._in_reach = None

    def add(self, holder: Holder, *, first: bool) -> None:
        """A holder is new, or begins to lack something; `first`: it could be the first to finish."""
        self.order.add(holder, first=first)
        self.line.add(holder)
        if self._wall is not None:
            self._wall.add(holder)

    def change(self, holder: Holder, device: int, more_bytes: int) -> None:
        """A holder has changed on a device, this or another, and gives back so much more of it.

        The line is not told: it has to be before and after the change, see `line`.
        """
        self.order.change(holder, device, more_bytes)
        if self._wall is not None:
            self._wall.change(holder, device, more_bytes)

    def remove(self, holder: Holder) -> None:
        """A holder is gone, or lacks nothing any more."""
        self.order.remove(holder)
        self.line.remove(holder)
        if self._wall is not None:
            self._wall.remove(holder)

    def grantable(self, holder: Holder, wanted: int, base: Amounts, *, is_safe: bool) -> int:
        """How much of what is wanted, and free, the holder may be given.

        Args:
            holder: Who lacks at least as much here.
            wanted: Bytes, greater than zero.
            base: What is available, by device, before any open holder ends.
            is_safe: All can finish.
        """
        if all(map(le, holder.lacks, base)):
            return wanted  # it can be the first to finish
        if self._in_reach is not None and holder.container not in self._in_reach:
            return 0
        if is_safe:
            if self._wall is not None and self._wall.stops({holder.container}, base):
                return 0
            wanted = self.line.bound(holder.lacks[self._at], wanted, base[self._at])
            if wanted == 0:
                return 0
        sweep = Sweep(self.order.blocks, base, self._at, wanted, until=holder.lacks)
        is_enough = sweep.go_on()
        self.order.learn(sweep.steps)
        if is_enough or not sweep.is_stuck:
            return sweep.spare
        self._remember(sweep, base, is_safe=is_safe)
        return 0

    def gives_nothing(self, waiting: AbstractSet[ContainerId], base: Amounts, *, is_safe: bool) -> bool:
        """Whether it can be seen at little cost that none of those that wait can be given anything."""
        if not is_safe:
            return False
        if self._wall is not None and not self._wall.stops(waiting, base):
            self._wall = None
        return self._wall is not None or self.line.blocks(waiting, base[self._at])

    def receivers(self, waiting: AbstractSet[ContainerId], base: Amounts, *, is_safe: bool) -> AbstractSet[ContainerId]:
        """Those that wait and can be given something, if anything is free."""
        if self._in_reach is None:
            sweep = Sweep(self.order.blocks, base, self._at, 1)
            sweep.go_on()
            if not sweep.is_stuck:
                return waiting
            self._remember(sweep, base, is_safe=is_safe)
        return waiting & self._in_reach if self._in_reach is not None else waiting

    def _remember(self, sweep: Sweep, base: Amounts, *, is_safe: bool) -> None:
        self._in_reach = {*sweep.finished, *sweep.able()}
        self._wall = Wall(sweep, self._at, base) if is_safe else None
