# SPDX-License-Identifier: Apache-2.0
"""The containers of one device, the one that lacks least first, and what can be said from this device alone.

If every other device had enough for everybody, containers could finish in just this order. With less they can do no
better. So in a safe state, what this device alone does not allow is not possible. (In an unsafe one it may be: nothing
has to be kept for those that cannot finish anyway, and which these are, one device does not tell.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from convgpu.core.identity import ContainerId
from convgpu.core.safety.order import NOTHING, Holder

_SIGHT: Final = 64
"""How far it is looked down the line; who is further down is seldom what an answer depends on."""


class Line:
    """All open holders, as one device sees them.

    Args:
        device: Which one, in all amounts.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._lacking: list[tuple[int, int, Holder]] = []
        self._given_back = 0  # by those that lack nothing here, but elsewhere

    @property
    def most(self) -> int:
        """The most that any of them lacks; NOTHING if none does."""
        return self._lacking[-1][0] if self._lacking else NOTHING

    def add(self, holder: Holder) -> None:
        """Take in a holder."""
        lacks = holder.lacks[self._device]
        if lacks > 0:
            insort(self._lacking, (lacks, holder.number, holder))
        else:
            self._given_back += holder.gives[self._device]

    def remove(self, holder: Holder) -> None:
        """Take out a holder."""
        lacks = holder.lacks[self._device]
        if lacks > 0:
            del self._lacking[bisect_left(self._lacking, (lacks, holder.number))]
        else:
            self._given_back -= holder.gives[self._device]

    def bound(self, lacks: int, wanted: int, base: int) -> int:
        """How much of what is wanted can at most be given to a holder that lacks so much here.

        Args:
            lacks: What it lacks.
            wanted: No more than is free.
            base: What is free, and what those give back that lack nothing anywhere.
        """
        available, spare = base + self._given_back, wanted
        for other, _, holder in islice(self._lacking, _SIGHT):
            if lacks <= available or spare <= 0:
                break
            spare = min(spare, available - other)
            available += holder.gives[self._device]
        return max(0, spare)

    def blocks(self, waiting: AbstractSet[ContainerId], base: int) -> bool:
        """Whether none of those that wait can be given anything here; False: that cannot be seen from here."""
        available = base + self._given_back
        for lacks, _, holder in islice(self._lacking, _SIGHT):
            if lacks > available:
                return True
            if holder.container in waiting:
                return False
            if lacks < available:
                available += holder.gives[self._device]
        return len(self._lacking) <= _SIGHT
