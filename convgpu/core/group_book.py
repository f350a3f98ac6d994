# SPDX-License-Identifier: Apache-2.0
"""The side of the ledger that knows groups: their limits, and which holdings are in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from convgpu.core.groups import GroupAccount, GroupLimits, least_limit
from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.safety.nested import NestedIndex
from convgpu.core.safety.order import NEVER

if TYPE_CHECKING:
    from convgpu.core.ledger import Holding


class GroupBook:
    """All groups on all devices.

    Args:
        holdings: Those of the ledger, which goes on changing them.
        index: The stakes, to which changes of limits are told.
    """

    def __init__(self, holdings: Mapping[GpuUuid, Mapping[ContainerId, Holding]], index: NestedIndex) -> None:
        self._holdings = holdings
        self._index = index
        self._limits: dict[GroupName, dict[GpuUuid, int]] = {}

    @property
    def limits(self) -> GroupLimits:
        """The limits of groups."""
        return self._limits

    def names(self) -> list[GroupName]:
        """All groups with a limit or with containers."""
        paths = {holding.path for holdings in self._holdings.values() for holding in holdings.values()}
        return sorted({*self._limits, *(group for path in paths for group in path)})

    def members(self, group: GroupName, gpu: GpuUuid) -> list[Holding]:
        """All of a group on a device, those of groups in it included."""
        return [holding for holding in self._holdings[gpu].values() if group in holding.path]

    def account(self, group: GroupName, gpu: GpuUuid) -> GroupAccount:
        """One group on one device, as it is now."""
        members = self.members(group, gpu)
        limit_bytes = self._limits.get(group, {}).get(gpu)
        assigned_bytes = sum(holding.assigned_bytes for holding in members)
        return GroupAccount(
            limit_bytes=limit_bytes,
            assigned_bytes=assigned_bytes,
            used_bytes=sum(holding.used_bytes for holding in members),
            members=tuple(holding.container for holding in members),
            waiting=sum(len(holding.waiters) for holding in members),
            over=limit_bytes is not None and assigned_bytes > limit_bytes,
        )

    def ceiling(self, path: tuple[GroupName, ...], gpu: GpuUuid) -> int:
        """The lowest limit of the groups of a path."""
        least = least_limit(self._limits, path, gpu)
        return NEVER if least is None else least[0]

    def set_limits(self, group: GroupName, limits: Mapping[GpuUuid, int]) -> list[Holding]:
        """Replace the limits of a group; return the holdings for which something else may be missing now."""
        if limits:
            self._limits[group] = dict(limits)
        else:
            self._limits.pop(group, None)
        self._index.set_group(group, limits)
        members = [holding for gpu in self._holdings for holding in self.members(group, gpu)]
        for holding in members:
            holding.ceiling_bytes = self.ceiling(holding.path, holding.gpu)
        return members

    def check(self) -> None:
        """Raise AssertionError if the index does not agree."""
        for group, limits in self._limits.items():
            for gpu, limit_bytes in limits.items():
                assigned_bytes = sum(holding.assigned_bytes for holding in self.members(group, gpu))
                if self._index.group_free(group, gpu) != limit_bytes - assigned_bytes:
                    raise AssertionError(f"bytes of {group} on {gpu} made or lost")
