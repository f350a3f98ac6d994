# SPDX-License-Identifier: Apache-2.0
"""Letting containers finish, one after another, as far as an answer needs it.

Something is given away on one device: the *spare*. Those that must finish first have to do with so much less there.
With a given spare, let all finish that can; what can finish does not depend on the order in which it is tried. If that
is not enough for whom the question is about, the spare is lowered just so far that one more can finish, and so on.

Whole blocks of the remembered order are asked first. Single holders are looked at only where some of a block can finish
and others cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from heapq import heappop, heappush
from operator import add, le, lt, sub
from typing import NamedTuple

from convgpu.core.identity import ContainerId
from convgpu.core.safety.order import NEVER, Amounts, Block, Holder


class _Group(NamedTuple):
    """A block, or what is left of it when some of its holders have gone ahead.

    Attributes:
        holders: The first one first.
        gives: The sum of theirs.
        needs: If this is available, all of them can finish one after another.
        walls: While less than this is available on every device, none of them can finish; None: not known.
        block: The block, if it is whole.
    """

    holders: Collection[Holder]
    gives: Amounts
    needs: Amounts
    walls: Amounts | None
    block: Block | None

    def without(self, gone: Iterable[Holder], left: list[Holder]) -> _Group:
        gives, needs = self.gives, self.needs
        for holder in gone:  # those after it cannot count on what it gives back here
            gives, needs = list(map(sub, gives, holder.gives)), list(map(add, needs, holder.gives))
        return _Group(left, gives, needs, None, None)


class Sweep:
    """One sweep over the containers as they are now; of no use after any change.

    Args:
        blocks: All open holders.
        base: What is available before any of them has finished.
        device: On which device something is given away.
        spare: How much, to begin with.
        until: Go on until this is available; None: until no more can finish.
        without: Let this one never finish.

    Attributes:
        available: What is available now; the spare counts as available.
        spare: What is given away now.
        steps: Those that have finished, the first one first; whole blocks as such.
        is_stuck: More could finish, but only if nothing were given away.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        base: Amounts,
        device: int,
        spare: int,
        until: Amounts | None = None,
        without: Holder | None = None,
    ) -> None:
        self.available = base
        self.spare = spare
        self.steps: list[Block | Holder] = []
        self.is_stuck = False
        self._device = device
        self._until = until
        self._rest = list(base)  # available, less the spare
        self._rest[device] -= spare
        self._able: list[tuple[int, int, Holder]] = []
        self._parked: list[_Group] = []
        for block in blocks:
            if without is not None and without.container in block.holders:
                left = [holder for holder in block.holders.values() if holder is not without]
                self._look_at(_group(block).without([without], left))
            elif all(map(le, block.needs, self._rest)):
                self.steps.append(block)
                self._add(block.gives)
            else:
                self._look_at(_group(block))
            if self.is_enough:
                return
        self._settle()

    @property
    def is_enough(self) -> bool:
        """Whether that is available until which it was to go on."""
        return self._until is not None and all(map(le, self._until, self.available))

    @property
    def finished(self) -> set[ContainerId]:
        """Those that have finished."""
        finished: set[ContainerId] = set()
        for step in self.steps:
            if isinstance(step, Block):
                finished.update(step.holders)
            else:
                finished.add(step.container)
        return finished

    def go_on(self) -> bool:
        """Lower the spare as far as it must be; False: until no more can finish, or nothing is left to give away."""
        while not self.is_enough and self._able:
            spare = self.available[self._device] - self._able[0][0]
            if spare <= 0:
                self.is_stuck = True
                break
            self.spare = spare
            self._rest[self._device] = self.available[self._device] - spare
            self._settle()
        return self.is_enough

    def able(self) -> Iterator[ContainerId]:
        """Those that could be the next to finish if less were given away."""
        return (holder.container for _, _, holder in self._able)

    def walls(self) -> Amounts:
        """While less than this is available on every device, nobody else can finish."""
        never = [NEVER] * len(self.available)
        return list(map(min, never, *(group.walls or never for group in self._parked))) if self._parked else never

    def _settle(self) -> None:
        """Let all finish that can with this spare."""
        before: Amounts = []
        while self.available is not before and not self.is_enough:
            before = self.available
            while self._able and self._able[0][0] <= self._rest[self._device]:
                self._finish(heappop(self._able)[2])
            parked, self._parked = self._parked, []
            for group in parked:
                if group.walls is not None and all(map(lt, self.available, group.walls)):
                    self._parked.append(group)
                elif all(map(le, group.needs, self._rest)):
                    self._finish_all(group)
                else:
                    self._look_at(group)

    def _finish_all(self, group: _Group) -> None:
        self.steps += group.holders if group.block is None else (group.block,)
        self._add(group.gives)

    def _look_at(self, group: _Group) -> None:
        """Look at a group of which not all can finish in their order: none of them, if that can be said of all."""
        if group.walls is not None and all(map(lt, self.available, group.walls)):
            self._parked.append(group)
        else:
            self._look_at_each(group)

    def _look_at_each(self, group: _Group) -> None:
        gone: list[Holder] = []
        blocked: list[Holder] = []
        for holder in group.holders:
            if all(map(le, holder.lacks, self._rest)):
                gone.append(holder)
                self._finish(holder)
            elif all(map(le, holder.lacks, self.available)):
                gone.append(holder)
                heappush(self._able, (holder.lacks[self._device], holder.number, holder))
            else:
                blocked.append(holder)
        if gone:
            group = group.without(gone, blocked)
        if not blocked:
            return
        walls = self._walls_before(blocked)
        if walls is None:
            self._look_at_each(group)
            return
        if group.block is not None:
            group.block.walls = list(walls)
        self._parked.append(group._replace(walls=walls))

    def _walls_before(self, blocked: list[Holder]) -> Amounts | None:
        """The least that any of them lacks of the first device on which it lacks more than there is, by device.

        None: one of them lacks no more than there is, since others have finished after it was looked at.
        """
        walls = [NEVER] * len(self.available)
        for holder in blocked:
            for device, (lacks, available) in enumerate(zip(holder.lacks, self.available, strict=True)):
                if lacks > available:
                    walls[device] = min(walls[device], lacks)
                    break
            else:
                return None
        return walls

    def _finish(self, holder: Holder) -> None:
        self.steps.append(holder)
        self._add(holder.gives)

    def _add(self, gives: Amounts) -> None:
        self.available = list(map(add, self.available, gives))
        self._rest = list(map(add, self._rest, gives))


def _group(block: Block) -> _Group:
    return _Group(block.holders.values(), block.gives, block.needs, block.walls, block)
