# SPDX-License-Identifier: Apache-2.0
"""Who can be given something of a device on which groups have limits.

What a group by itself allows its members changes only with the group. So it is looked at again only for groups that
have changed, and only those that allow anything are gone through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet

from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.safety.index import SafetyIndex

Open = Mapping[GroupName, AbstractSet[ContainerId]]
"""Groups that allow something of a device to some of their members, and to which."""


class OpenGroups:
    """What groups by themselves allow, by device.

    Args:
        groups: Those with a limit, which their owner goes on changing; each change is to be noted.
    """

    def __init__(self, groups: Mapping[GroupName, SafetyIndex]) -> None:
        self._groups = groups
        self._open: dict[GpuUuid, dict[GroupName, AbstractSet[ContainerId]]] = {}
        self._changed: dict[GpuUuid, set[GroupName]] = {}

    def note(self, group: GroupName) -> None:
        """A group has changed."""
        for changed in self._changed.values():
            changed.add(group)

    def forget(self) -> None:
        """Much has changed."""
        self._open.clear()
        self._changed.clear()

    def on(self, gpu: GpuUuid) -> Open:
        """Those that allow something of a device; all members where a group has no limit there."""
        if gpu not in self._open:
            self._open[gpu] = {}
            self._changed[gpu] = set(self._groups)
        found, changed = self._open[gpu], self._changed[gpu]
        for group in changed:
            found.pop(group, None)
            index = self._groups.get(group)
            if index is not None:
                members = index.stakes.keys()
                allowed = index.receivers(gpu, members) if gpu in index.free else members
                if allowed:
                    found[group] = allowed
        changed.clear()
        return found


class Reach(Collection[ContainerId]):
    """Containers that can be given something; of no use after any change.

    Args:
        found: Those that the device can give something, as far as it alone is concerned.
        chains: The groups with a limit that a container is in.
        allowed: What these groups by themselves allow; None: they are not to be asked.
        shut: For chains of which all resources together were looked at: those to whom something can be given.
    """

    def __init__(
        self,
        found: AbstractSet[ContainerId],
        chains: Mapping[ContainerId, tuple[GroupName, ...]],
        allowed: Open | None,
        shut: Mapping[tuple[GroupName, ...], AbstractSet[ContainerId]],
    ) -> None:
        self._found = found
        self._chains = chains
        self._allowed = allowed
        self._shut = shut

    def __contains__(self, container: object) -> bool:
        if container not in self._found:
            return False
        groups = self._chains.get(container)  # type: ignore[call-overload]  # what is found is a container
        if groups is None:
            return True
        if groups in self._shut and container not in self._shut[groups]:
            return False
        return self._allowed is None or all(container in self._allowed.get(group, ()) for group in groups)

    def __iter__(self) -> Iterator[ContainerId]:
        """Go through them, and begin with those that are in no group."""
        if self._allowed is None:
            yield from (container for container in self._found if container in self)
            return
        yield from self._found - self._chains.keys()
        seen: set[ContainerId] = set()
        for some in self._allowed.values():
            for container in (some & self._found) - seen:
                if container in self:
                    yield container
            seen |= some

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        """Whether there is any; asked after everything that is given away, so without making sets."""
        if self._allowed is None:
            return any(container in self for container in self._found)
        if not self._found <= self._chains.keys():
            return True
        return any(
            container in self
            for some in self._allowed.values()
            if not self._found.isdisjoint(some)
            for container in some & self._found
        )
