# SPDX-License-Identifier: Apache-2.0
"""In which order containers could finish, remembered from the last time that it was found out.

Amounts are vectors: a number for each device under the rule, always in the same order. An order is cut into blocks. A
block knows what its holders give back in all, and what has to be available before it so that they can finish one after
another: one comparison speaks for all of them. It also has *walls*: amounts such that, while less than that is
available on every device, none of its holders can finish.

An order may be out of date. That costs time, and changes no answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from operator import add, ge, sub
from typing import Final

from convgpu.core.identity import ContainerId

Amounts = list[int]

NOTHING: Final = -(1 << 100)
"""What a container lacks that lacks nothing: met even where available is below zero."""

NEVER: Final = 1 << 100
"""More than will ever be available."""

_BLOCK: Final = 32
"""Holders of a block. With 1,000 containers, walking all blocks takes as long as looking at each holder of one."""

_FEW: Final = 16
"""So many holders may finish out of order before the order is made anew, which costs about as much as they do."""


@dataclass(slots=True, eq=False)
class Holder:
    """A container as the rule sees it.

    Attributes:
        gives: What is assigned to it, by device, and comes back when it ends.
        lacks: What it lacks to its limit, by device; NOTHING where that is nothing.
        number: Tells holders apart.
    """

    container: ContainerId
    gives: Amounts
    lacks: Amounts
    number: int

    @property
    def is_open(self) -> bool:
        """Whether it lacks anything."""
        return max(self.lacks, default=NOTHING) > 0


class Block:
    """Holders that finish one after another.

    Attributes:
        holders: By container, the first one first.
        gives: Their sum, by device.
        walls: While less than this is available on every device, none of them can finish; None: not known.
    """

    __slots__ = ("_needs", "_stale", "gives", "holders", "walls")

    def __init__(self, holders: Iterable[Holder], width: int) -> None:
        self.holders = {holder.container: holder for holder in holders}
        self.gives = [sum(column) for column in zip(*(holder.gives for holder in self.holders.values()), strict=True)]
        self.walls: Amounts | None = None
        self._needs = [NOTHING] * width
        self._stale = set(range(width))

    @property
    def needs(self) -> Amounts:
        """What has to be available, by device, so that all of them can finish in this order."""
        for device in self._stale:
            lacks = [holder.lacks[device] for holder in self.holders.values()]
            given_back = accumulate([holder.gives[device] for holder in self.holders.values()], initial=0)
            self._needs[device] = max(map(sub, lacks, given_back))
        self._stale.clear()
        return self._needs

    def add(self, holder: Holder) -> None:
        """One more, the last."""
        self.holders[holder.container] = holder
        self.gives = list(map(add, self.gives, holder.gives))
        self._stale.update(range(len(self._needs)))
        self._keep_walls(holder)

    def remove(self, holder: Holder) -> None:
        """One less."""
        del self.holders[holder.container]
        self.gives = list(map(sub, self.gives, holder.gives))
        self._stale.update(range(len(self._needs)))

    def change(self, holder: Holder, device: int, more_bytes: int) -> None:
        """One has changed on a device, and gives back so much more."""
        self.gives[device] += more_bytes
        self._stale.add(device)
        self._keep_walls(holder)

    def _keep_walls(self, holder: Holder) -> None:
        """Lower the walls so far that this holder is behind them, where that costs least."""
        if self.walls is not None and not any(map(ge, holder.lacks, self.walls)):
            above = list(map(sub, self.walls, holder.lacks))
            device = above.index(min(above))
            self.walls[device] = holder.lacks[device]


class Order:
    """All open holders.

    Args:
        width: How many devices there are.

    Attributes:
        blocks: The first to finish first.
    """

    def __init__(self, width: int) -> None:
        self.blocks: list[Block] = []
        self._width = width
        self._home: dict[ContainerId, Block] = {}

    def __len__(self) -> int:
        return len(self._home)

    def add(self, holder: Holder, *, first: bool) -> None:
        """Take in a holder, near the beginning or at the end."""
        at = 0 if first else len(self.blocks) - 1
        if not self.blocks:
            self.blocks.append(self._block([holder]))
        elif len(self.blocks[at].holders) < 2 * _BLOCK:
            self.blocks[at].add(holder)
            self._home[holder.container] = self.blocks[at]
        else:
            self.blocks.insert(0 if first else len(self.blocks), self._block([holder]))
            self._unite()

    def remove(self, holder: Holder) -> None:
        """Take out a holder."""
        block = self._home.pop(holder.container)
        block.remove(holder)
        if not block.holders:
            self.blocks.remove(block)

    def change(self, holder: Holder, device: int, more_bytes: int) -> None:
        """A holder has changed on a device, and gives back so much more."""
        self._home[holder.container].change(holder, device, more_bytes)

    def learn(self, steps: list[Block | Holder]) -> None:
        """Remember in which order some have finished just now, if many of them did so out of order.

        Args:
            steps: The first to finish first; blocks that finished as such stay as they are.
        """
        loose = {step.container for step in steps if isinstance(step, Holder)}
        if len(loose) <= _FEW:
            return
        steps = list(steps)
        whole = {step for step in steps if isinstance(step, Block)}
        for block in self.blocks:
            if block in whole:
                continue
            if loose.isdisjoint(block.holders):
                steps.append(block)
            else:
                steps += [holder for holder in block.holders.values() if holder.container not in loose]
        self.blocks = []
        run: list[Holder] = []
        for step in steps:
            if isinstance(step, Holder):
                run.append(step)
            else:
                self._cut(run)
                run = []
                self.blocks.append(step)
        self._cut(run)
        self._unite()

    def _unite(self) -> None:
        """Make few large blocks of many small ones."""
        if len(self.blocks) > 8 + 3 * len(self) // _BLOCK:
            holders = [holder for block in self.blocks for holder in block.holders.values()]
            self.blocks = []
            self._cut(holders)

    def _cut(self, holders: list[Holder]) -> None:
        self.blocks += [self._block(holders[start : start + _BLOCK]) for start in range(0, len(holders), _BLOCK)]

    def _block(self, holders: list[Holder]) -> Block:
        block = Block(holders, self._width)
        self._home.update(dict.fromkeys(block.holders, block))
        return block
