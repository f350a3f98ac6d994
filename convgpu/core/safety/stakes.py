# SPDX-License-Identifier: Apache-2.0
"""What every container has and lacks, and the criterion in its plainest form: for questions, not for decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from convgpu.core.identity import ContainerId, GpuUuid, GroupName

Column = GpuUuid
"""A device; or a group on one, where groups are written into the criterion as devices of their own."""


class Stake(NamedTuple):
    """One container on one device, in bytes.

    Attributes:
        assigned: What it gives back when it ends.
        missing: What it lacks to its limit, or to all of the device if that is less.
    """

    assigned: int
    missing: int


Stakes = Mapping[ContainerId, Mapping[GpuUuid, Stake]]


def column_of(gpu: GpuUuid, group: GroupName) -> Column:
    """The column of a group on a device."""
    return Column(f"{gpu} {group}")


def run_to_end(
    free: Mapping[GpuUuid, int], stakes: Stakes, ruled: Collection[GpuUuid] | None = None
) -> tuple[set[ContainerId], dict[GpuUuid, int]]:
    """Let containers reach their limits and end, in any order that works, until no more can.

    The result does not depend on the order, because every end only adds to what is available.

    Args:
        free: What is not assigned, by device; may be below zero.
        stakes: Every container's stake on every device it uses.
        ruled: The devices that count; None: all. The others are taken to have enough for everybody.

    Returns:
        The containers that can finish, and what is available after they have, by device.
    """
    available = dict(free)
    finished: set[ContainerId] = set()
    by_missing: dict[GpuUuid, list[tuple[int, ContainerId]]] = {
        gpu: [] for gpu in free if ruled is None or gpu in ruled
    }
    unmet: dict[ContainerId, int] = {}
    ready: list[ContainerId] = []
    for container, held in stakes.items():
        unmet[container] = 0
        for gpu, stake in held.items():
            if stake.missing and gpu in by_missing:
                unmet[container] += 1
                by_missing[gpu].append((stake.missing, container))
        if not unmet[container]:
            ready.append(container)
    for line in by_missing.values():
        line.sort(reverse=True)  # the one that lacks least is last
    while True:
        for gpu, line in by_missing.items():
            while line and line[-1][0] <= available[gpu]:
                _, container = line.pop()
                unmet[container] -= 1
                if not unmet[container]:
                    ready.append(container)
        if not ready:
            return finished, available
        for container in ready:
            finished.add(container)
            for gpu, stake in stakes[container].items():
                available[gpu] += stake.assigned
        ready.clear()


def is_safe(free: Mapping[GpuUuid, int], stakes: Stakes, ruled: Collection[GpuUuid] | None = None) -> bool:
    """Whether every container can finish, as far as the devices that count are concerned."""
    return len(run_to_end(free, stakes, ruled)[0]) == len(stakes)
