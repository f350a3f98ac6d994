# SPDX-License-Identifier: Apache-2.0
"""Why nobody who waits on a device can be given anything of it, for as long as that can be seen.

A sweep that is stuck has let some containers finish. Of the others, each lacks more of some device than is available
then; but for a few that lack just as much of the device itself as there is, so that nothing of it can be spared.

Let F be those that have finished, and say that all outside of F and of these few are *behind the wall*. As long as that
is so, nobody behind the wall can be given a byte: with a byte less, whoever outside of F were the first to finish would
have to do with what F and the free memory leave, and that is not enough for any of them. What F leaves does not change
when its members take from what is free, or give back to it. So most changes leave a wall standing.

F may come to have members that could no longer finish, so a wall may fall too early; never too late. All of this is
about containers that can finish: it holds in a safe state.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from operator import add, ge, gt, lt, sub

from convgpu.core.identity import ContainerId
from convgpu.core.safety.order import Amounts, Holder
from convgpu.core.safety.sweep import Sweep


class Wall:
    """What a stuck sweep has found, kept up to date.

    Args:
        sweep: Is stuck.
        device: On which device.
        base: What was available before it began.
    """

    def __init__(self, sweep: Sweep, device: int, base: Amounts) -> None:
        self._device = device
        self._finished = sweep.finished
        self._able = set(sweep.able())
        self._given_back = list(map(sub, sweep.available, base))
        self._walls = sweep.walls()
        self._changed: dict[ContainerId, Holder] = {}
        if self._able:
            self._keep_unable(sweep.available)

    def stops(self, waiting: AbstractSet[ContainerId], base: Amounts) -> bool:
        """Whether none of those that wait can be given anything, if this is available before any open holder ends."""
        if self._changed:
            self._take_in(base)
        return (
            all(map(lt, map(add, base, self._given_back), self._walls))
            and waiting.isdisjoint(self._finished)
            and waiting.isdisjoint(self._able)
        )

    def add(self, holder: Holder) -> None:
        """A holder is new, or begins to lack something."""
        self._changed[holder.container] = holder

    def change(self, holder: Holder, device: int, more_bytes: int) -> None:
        """A holder has changed on a device, and gives back so much more."""
        if holder.container in self._finished:
            self._given_back[device] += more_bytes
        else:
            self._changed[holder.container] = holder

    def remove(self, holder: Holder) -> None:
        """A holder is gone, or lacks nothing any more."""
        self._changed.pop(holder.container, None)
        self._able.discard(holder.container)
        if holder.container in self._finished:
            self._finished.remove(holder.container)
            self._given_back = list(map(sub, self._given_back, holder.gives))

    def _take_in(self, base: Amounts) -> None:
        """See whether those that have changed are behind the wall; let those finish that can."""
        changed, self._changed = list(self._changed.values()), {}
        available = list(map(add, base, self._given_back))
        before = -1
        while len(changed) != before:  # each that finishes can let one before it finish
            before, blocked = len(changed), []
            for holder in changed:
                self._able.discard(holder.container)
                if any(map(ge, holder.lacks, self._walls)):
                    continue
                if any(map(gt, holder.lacks, available)):
                    blocked.append(holder)
                elif holder.lacks[self._device] < available[self._device]:
                    self._finished.add(holder.container)
                    self._given_back = list(map(add, self._given_back, holder.gives))
                    available = list(map(add, available, holder.gives))
                else:
                    self._able.add(holder.container)
                    self._keep_unable(available)
            changed = blocked
        for holder in changed:
            above = list(map(sub, holder.lacks, available))
            device = above.index(max(above))
            self._walls[device] = min(self._walls[device], holder.lacks[device])

    def _keep_unable(self, available: Amounts) -> None:
        """With a byte more of the device, those that lack just as much as there is could finish."""
        self._walls[self._device] = min(self._walls[self._device], available[self._device] + 1)
