# SPDX-License-Identifier: Apache-2.0
"""Those that can be given something of a device on which groups have limits, found out as they are asked for.

Whoever hands out what is free wants the first in line that can be given something, and whether there is any. So what
each group allows its members is looked at when one of them is asked about, and remembered for the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain

from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.safety.index import SafetyIndex


class Reach(Collection[ContainerId]):
    """Containers that can be given something; of no use after any change.

    Args:
        gpu: The device.
        found: Those that it can give something, as far as it alone is concerned.
        chains: The groups with a limit that a container is in.
        groups: What these groups by themselves allow.
        shut: For chains of which all resources together were looked at: those to whom something can be given.
    """

    def __init__(
        self,
        gpu: GpuUuid,
        found: AbstractSet[ContainerId],
        chains: Mapping[ContainerId, tuple[GroupName, ...]],
        groups: Mapping[GroupName, SafetyIndex],
        shut: Mapping[tuple[GroupName, ...], AbstractSet[ContainerId]],
    ) -> None:
        self._gpu = gpu
        self._found = found
        self._chains = chains
        self._groups = groups
        self._shut = shut
        self._of_group: dict[GroupName, AbstractSet[ContainerId]] = {}

    def __contains__(self, container: object) -> bool:
        if container not in self._found:
            return False
        groups = self._chains.get(container)  # type: ignore[call-overload]  # what is found is a container
        if groups is None:
            return True
        if groups in self._shut and container not in self._shut[groups]:
            return False
        for group in groups:
            allowed = self._of_group.get(group)
            if allowed is None:
                allowed = self._look_at(group)
            if container not in allowed:
                return False
        return True

    def __iter__(self) -> Iterator[ContainerId]:
        """Go through them, group by group, and begin with those that are in none."""
        seen: set[ContainerId] = set()
        for some in chain((self._found - self._chains.keys(),), map(self._look_at, self._groups)):
            for container in some - seen:
                if container in self:
                    yield container
            seen |= some

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def _look_at(self, group: GroupName) -> AbstractSet[ContainerId]:
        """Those of a group to whom it can give something."""
        allowed = self._of_group.get(group)
        if allowed is None:
            index = self._groups[group]
            members = index.stakes.keys() & self._found
            allowed = index.receivers(self._gpu, members) if members and self._gpu in index.free else members
            self._of_group[group] = allowed
        return allowed
