# SPDX-License-Identifier: Apache-2.0
"""Why a request waits, and what would let it go on: asked by people, so it may take longer than a decision."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from convgpu.core.bypass import Bypass
from convgpu.core.identity import ContainerId, GroupName
from convgpu.core.ledger import Holding, Ledger
from convgpu.core.safety.stakes import Column, Stake, Stakes, run_to_end

_CANDIDATES_MOST: Final = 16
"""So many containers are tried, the largest first: whoever reads it wants one or two names."""


class Obstacle(StrEnum):
    """What stands in the way of a request at rest."""

    NOT_FREE = "not_free"
    """The device has less free than it lacks."""
    GROUP = "group"
    """The device has enough, but a group of it would not let it have so much, whatever happens elsewhere."""
    UNSAFE = "unsafe"
    """Enough is free, but if it were given away others could no longer finish."""
    HELD_BACK = "held_back"
    """Its container started while others were overdue, and gets nothing until they have had their turn."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one container waits on one device.

    Attributes:
        obstacle: What stands in the way.
        need_bytes: What it would have to be assigned more.
        free_bytes: What is free on the device.
        enough: Containers of which the end of any single one would let it go on, the largest first; some of them.
        together: Where no single one is enough: containers whose ends together would, in an order in which they can
            end; empty: not even that, so memory outside of ConvGPU's control stands in the way.
        behind: The overdue containers for which it is held back.
        group: The innermost group that would not let it have so much, also where the device has not enough either.
        group_free_bytes: What is not assigned of that group.
    """

    obstacle: Obstacle
    need_bytes: int
    free_bytes: int
    enough: tuple[ContainerId, ...] = ()
    together: tuple[ContainerId, ...] = ()
    behind: tuple[ContainerId, ...] = ()
    group: GroupName | None = None
    group_free_bytes: int | None = None


def explain(ledger: Ledger, bypass: Bypass, holding: Holding, need_bytes: int, *, safe: bool) -> Explanation:
    """Say why something that lacks so many bytes of its device waits.

    Args:
        ledger: Who holds what.
        bypass: Who is held back.
        holding: The container on the device.
        need_bytes: What it lacks.
        safe: Whether the safety rule holds on this device.
    """
    free_bytes = ledger.free(holding.gpu)
    behind = bypass.behind(holding.container)
    if behind:
        return Explanation(Obstacle.HELD_BACK, need_bytes, free_bytes, behind=behind)
    group = ledger.index.shut_in(holding.container, holding.gpu, need_bytes)
    group_free_bytes = None if group is None else ledger.index.group_free(group, holding.gpu)
    within = Obstacle.UNSAFE if group is None else Obstacle.GROUP
    obstacle = Obstacle.NOT_FREE if need_bytes > free_bytes else within
    others = [other for other in ledger.holdings(holding.gpu) if other.container != holding.container]
    by_size = sorted(others, key=lambda other: (-other.assigned_bytes, other.created_ns, other.container))
    enough = tuple(
        other.container
        for other in by_size[:_CANDIDATES_MOST]
        if _goes_on_without(ledger, holding, need_bytes, {other.container}, safe=safe)
    )
    together: list[ContainerId] = []
    if not enough:
        for container in _ending(ledger, holding):
            together.append(container)
            if _goes_on_without(ledger, holding, need_bytes, set(together), safe=safe):
                break
        else:
            together.clear()
    return Explanation(
        obstacle,
        need_bytes,
        free_bytes,
        enough,
        tuple(together),
        group=group,
        group_free_bytes=group_free_bytes,
    )


def _ending(ledger: Ledger, holding: Holding) -> Iterator[ContainerId]:
    """The other containers of the device, those that lack least first: so they can end."""
    others = [other for other in ledger.holdings(holding.gpu) if other.container != holding.container]
    others.sort(key=lambda other: (ledger.missing(other, other.quota.limit_bytes), other.created_ns, other.container))
    return (other.container for other in others[:_CANDIDATES_MOST])


def _goes_on_without(ledger: Ledger, holding: Holding, need_bytes: int, ended: set[ContainerId], *, safe: bool) -> bool:
    """Whether the request could be granted if these containers had ended."""
    free, stakes, ruled = ledger.index.columns()
    for name in ended:
        for column, stake in stakes.pop(name).items():
            free[column] += stake.assigned
    own = ledger.index.columns_of(holding.container, holding.gpu)
    if need_bytes > min(free[column] for column in own):
        return False
    return not safe or _all_still_finish(ruled, free, stakes, holding.container, own, need_bytes)


def _all_still_finish(
    ruled: Collection[Column],
    free: Mapping[Column, int],
    stakes: Stakes,
    container: ContainerId,
    columns: Collection[Column],
    given_bytes: int,
) -> bool:
    before, _ = run_to_end(free, stakes, ruled)
    held = dict(stakes[container])
    for column in columns:
        held[column] = Stake(held[column].assigned + given_bytes, max(0, held[column].missing - given_bytes))
    left = {**free, **{column: free[column] - given_bytes for column in columns}}
    after, _ = run_to_end(left, {**stakes, container: held}, ruled)
    return before <= after
