# SPDX-License-Identifier: Apache-2.0
"""The criterion over devices and groups at once, for what no device and no group can tell by itself.

A *pool* is a device's memory for all, or the part of it that a group may have. What a container lacks and gives back on
a device it lacks and gives back in every pool of its *chain*: all, the outermost group, and so on. So vectors stay as
long as there are devices: a container can finish if what it lacks is no more than the least that is available in any
pool of its chain. Containers of the same chain stand together in blocks, for which one comparison speaks, as in
`order`; how many groups there are besides costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import add, gt, le, sub
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.safety.order import NOTHING, Amounts, Holder
from convgpu.core.safety.stakes import Stake

Chain = tuple[GroupName, ...]
"""The pools that a container counts in, from the outside to the inside; the first is ALL."""

ALL: Final = GroupName("")
"""The pool of everybody: the device itself."""

_BLOCK: Final = 32
"""Containers of a block; see `order`."""
_WINDOW: Final = 8 * _BLOCK
"""So far apart in the order may two containers be that come into one block when the order is made anew."""
_FEW: Final = 16
"""So many may finish out of order before the order is made anew."""


def holder_of(container: ContainerId, held: Mapping[GpuUuid, Stake], gpus: Iterable[GpuUuid]) -> Holder:
    """A container as the sweeps see it, on these devices."""
    stakes = [held.get(gpu, Stake(0, 0)) for gpu in gpus]
    return Holder(container, [each.assigned for each in stakes], [each.missing or NOTHING for each in stakes], 0)


class _Block:
    """Containers of one chain that finish one after another."""

    __slots__ = ("_floor", "_needs", "chain", "gives", "holders")

    def __init__(self, chain: Chain, holders: Iterable[Holder]) -> None:
        self.chain = chain
        self.holders = {holder.container: holder for holder in holders}
        self.changed()

    def changed(self) -> None:
        """Its holders are others, or have changed."""
        self.gives = [sum(column) for column in zip(*(each.gives for each in self.holders.values()), strict=True)]
        self._needs: Amounts | None = None
        self._floor: Amounts | None = None

    @property
    def needs(self) -> Amounts:
        """What has to be available, by device, so that all of them can finish in this order."""
        if self._needs is None:
            before = [0] * len(self.gives)
            needs = [NOTHING] * len(self.gives)
            for holder in self.holders.values():
                needs = list(map(max, needs, map(sub, holder.lacks, before)))
                before = list(map(add, before, holder.gives))
            self._needs = needs
        return self._needs

    @property
    def floor(self) -> Amounts:
        """While less than this is available on any one device, none of them can finish."""
        if self._floor is None:
            self._floor = list(map(min, zip(*(each.lacks for each in self.holders.values()), strict=True)))
        return self._floor


class Joint:
    """All containers that lack something, in an order in which they could finish.

    Args:
        free: What is not assigned, by pool, then by device.
    """

    def __init__(self, free: Mapping[GroupName, Amounts]) -> None:
        self._base = {pool: list(amounts) for pool, amounts in free.items()}
        self._homes: dict[ContainerId, _Block] = {}
        self._closed: dict[ContainerId, tuple[Chain, Amounts]] = {}
        self._blocks: list[_Block] = []

    def add_free(self, pool: GroupName, device: int, change_bytes: int) -> None:
        """More or less of a pool is not assigned."""
        self._base[pool][device] += change_bytes

    def put(self, holder: Holder, chain: Chain) -> None:
        """Take in a container as it is now, in place of what it was."""
        home = self._homes.get(holder.container)
        if home is not None and holder.is_open:
            home.holders[holder.container] = holder
            home.changed()
            return
        self.drop(holder.container)
        if not holder.is_open:  # it can end at any time
            self._closed[holder.container] = (chain, holder.gives)
            self._add_base(chain, holder.gives)
        else:
            self._append(holder, chain)

    def drop(self, container: ContainerId) -> None:
        """Take out a container, if it is there."""
        closed = self._closed.pop(container, None)
        if closed is not None:
            chain, gives = closed
            self._add_base(chain, [-size for size in gives])
        home = self._homes.pop(container, None)
        if home is not None:
            del home.holders[container]
            if home.holders:
                home.changed()
            else:
                self._blocks.remove(home)

    def is_safe(self) -> bool:
        """Whether all can finish."""
        sweep = _Sweep(self._base, self._blocks, (), 0, 0)
        sweep.settle()
        self._learn(sweep)
        return not sweep.pending

    def available_without(self, container: ContainerId, chain: Chain) -> Amounts:
        """What is available in a container's chain when all others have finished that can without it."""
        home, closed = self._homes.get(container), self._closed.get(container)
        blocks = list(self._blocks)
        base = self._base
        if home is not None:
            rest = [holder for holder in home.holders.values() if holder.container != container]
            at = blocks.index(home)
            blocks[at : at + 1] = [_Block(home.chain, rest)] if rest else []
        elif closed is not None:
            less = closed[1]
            base = {pool: list(map(sub, has, less)) if pool in chain else has for pool, has in base.items()}
        sweep = _Sweep(base, blocks, (), 0, 0)
        sweep.settle()
        return sweep.least(chain)

    def grantable(self, container: ContainerId, device: int, wanted: int) -> int:
        """How much of what is wanted, and free in all of its chain, a container may be given."""
        home = self._homes[container]
        lacks = home.holders[container].lacks
        sweep = _Sweep(self._base, self._blocks, home.chain, device, wanted)
        while True:
            sweep.settle(until=lacks)
            if all(map(le, lacks, sweep.least(home.chain))):
                break
            spare = max((spare for _, spare in sweep.able()), default=None)
            if spare is None:
                break  # no more can finish, whatever is given away
            if spare <= 0:
                self._learn(sweep)
                return 0
            sweep.lower(spare)
        self._learn(sweep)
        return sweep.spare

    def receivers(self, chain: Chain, device: int) -> set[ContainerId] | None:
        """Those of a chain that can be given something of a device, if they lack it; None: all of them."""
        sweep = _Sweep(self._base, self._blocks, chain, device, 1)
        sweep.settle()
        able = {container for container, _ in sweep.able()}
        self._learn(sweep)
        if not able:
            return None
        return {container for container, home in self._homes.items() if home.chain == chain} & (
            sweep.finished.keys() | able
        )

    def _add_base(self, chain: Chain, more: Amounts) -> None:
        for pool in chain:
            self._base[pool] = list(map(add, self._base[pool], more))

    def _append(self, holder: Holder, chain: Chain) -> None:
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.chain == chain and len(last.holders) < _BLOCK:
            last.holders[holder.container] = holder
            last.changed()
        else:
            last = _Block(chain, [holder])
            self._blocks.append(last)
        self._homes[holder.container] = last

    def _learn(self, sweep: _Sweep) -> None:
        """Remember in which order some have finished just now, if many did so out of order, or blocks are small."""
        chains = {block.chain for block in self._blocks}
        if sweep.loose <= _FEW and len(self._blocks) <= 8 + 2 * len(chains) + 3 * len(self._homes) // _BLOCK:
            return
        order = [(self._homes[container].chain, holder) for container, holder in sweep.finished.items()]
        order += [
            (block.chain, holder)
            for block in self._blocks
            for holder in block.holders.values()
            if holder.container not in sweep.finished
        ]
        self._blocks = list(_cut(order))
        self._homes = {container: block for block in self._blocks for container in block.holders}


def _cut(order: Iterable[tuple[Chain, Holder]]) -> Iterator[_Block]:
    """Make blocks of containers that stand near each other and have the same chain."""
    gathered: dict[Chain, list[Holder]] = {}
    count = 0
    for chain, holder in order:
        gathered.setdefault(chain, []).append(holder)
        count += 1
        if len(gathered[chain]) == _BLOCK:
            count -= _BLOCK
            yield _Block(chain, gathered.pop(chain))
        if count == _WINDOW:
            yield from (_Block(each, holders) for each, holders in gathered.items())
            gathered, count = {}, 0
    yield from (_Block(each, holders) for each, holders in gathered.items())


class _Sweep:
    """Letting containers finish, one after another; of no use after any change.

    Args:
        base: What is available before any of them has finished, by pool.
        blocks: All of them.
        chain: Where something is given away, the *spare*: the others have so much less of it.
        device: Of which device.
        spare: How much, to begin with.

    Attributes:
        finished: Those that have finished, in this order.
        loose: How many of them not with their whole block.
        pending: The others.
        spare: How much is given away now.
    """

    def __init__(
        self, base: Mapping[GroupName, Amounts], blocks: Iterable[_Block], chain: Chain, device: int, spare: int
    ) -> None:
        self.finished: dict[ContainerId, Holder] = {}
        self.loose = 0
        self.pending = list(blocks)
        self.spare = 0
        self._available = dict(base)  # the spare counts as available
        self._rest = dict(base)  # available, less the spare
        self._chain = chain
        self._device = device
        self.lower(spare)

    def lower(self, spare: int) -> None:
        """Give away less."""
        for pool in self._chain:
            rest = self._rest[pool] = list(self._rest[pool])
            rest[self._device] += self.spare - spare
        self.spare = spare

    def least(self, chain: Chain) -> Amounts:
        """What is available in every pool of a chain."""
        return _least(self._available, chain)

    def settle(self, until: Amounts | None = None) -> None:
        """Let all finish that can with this spare, or until so much is available in the chain."""
        before = -1
        while len(self.finished) != before:
            before = len(self.finished)
            pending, self.pending = self.pending, []
            for at, block in enumerate(pending):
                if until is not None and all(map(le, until, self.least(self._chain))):
                    self.pending += pending[at:]
                    return
                self._look_at(block)

    def able(self) -> Iterator[tuple[ContainerId, int]]:
        """Those that could be the next to finish if less were given away, and how much that may be at most."""
        for block in self.pending:
            available = self.least(block.chain)
            if any(map(gt, block.floor, available)):
                continue
            shared = [self._available[pool][self._device] for pool in block.chain if pool in self._chain]
            for holder in block.holders.values():
                if all(map(le, holder.lacks, available)):
                    yield holder.container, min(shared) - holder.lacks[self._device]

    def _look_at(self, block: _Block) -> None:
        rest = _least(self._rest, block.chain)
        if all(map(le, block.needs, rest)):
            self.finished.update(block.holders)
            self._add(block.chain, block.gives)
            return
        if any(map(gt, block.floor, rest)):
            self.pending.append(block)
            return
        left = []
        for holder in block.holders.values():
            if all(map(le, holder.lacks, rest)):
                self.finished[holder.container] = holder
                self.loose += 1
                self._add(block.chain, holder.gives)
                rest = _least(self._rest, block.chain)
            else:
                left.append(holder)
        if len(left) == len(block.holders):
            self.pending.append(block)
        elif left:
            self.pending.append(_Block(block.chain, left))

    def _add(self, chain: Chain, gives: Amounts) -> None:
        for pool in chain:
            self._available[pool] = list(map(add, self._available[pool], gives))
            self._rest[pool] = list(map(add, self._rest[pool], gives))


def _least(amounts: Mapping[GroupName, Amounts], chain: Chain) -> Amounts:
    if len(chain) == 1:
        return amounts[chain[0]]
    return list(map(min, *(amounts[pool] for pool in chain)))
