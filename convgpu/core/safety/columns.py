# SPDX-License-Identifier: Apache-2.0
"""Devices and groups written out as the criterion has them: a column for each device, and for each group on one."""

from __future__ import annotations

from collections.abc import Mapping

from convgpu.core.identity import ContainerId, GroupName
from convgpu.core.safety.index import SafetyIndex
from convgpu.core.safety.stakes import Column, Stake, column_of


def columns_of_all(
    devices: SafetyIndex, groups: Mapping[GroupName, SafetyIndex]
) -> tuple[dict[Column, int], dict[ContainerId, dict[Column, Stake]], set[Column]]:
    """Return what is free, everybody's stakes, and the columns under the rule."""
    free = dict(devices.free)
    stakes = {container: dict(held) for container, held in devices.stakes.items()}
    ruled = set(devices.ruled)
    for group, index in groups.items():
        for gpu, free_bytes in index.free.items():
            column = column_of(gpu, group)
            free[column] = free_bytes
            if gpu in devices.ruled:
                ruled.add(column)
            for container, held in index.stakes.items():
                if gpu in held:
                    stakes[container][column] = held[gpu]
    return free, stakes, ruled
