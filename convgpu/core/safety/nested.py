# SPDX-License-Identifier: Apache-2.0
"""The safety index of devices on which groups have limits of their own.

A group with a limit on a device is one more resource: what is assigned to a container in it counts there too, and the
banker's criterion holds for all of them at once. Two facts keep that quick, however many groups there are:

- **Each resource by itself bounds the answer.** What is not safe as far as the devices alone are concerned, or the
  members of one group alone, is not safe. So there is one index for the devices and one for each group with a limit,
  and a container is known only to those of its own groups.
- **Mostly these bounds are the answer.** On one device, containers that finish in the order of what they lack do so in
  all resources at once, because they lack the same in each. So if each resource is safe, all are together. The same
  holds with several devices, as long as every container in a group uses only one of them; and groups that have enough
  for whoever lacks most do not matter. `joint` looks at all resources together where that does not settle it, and
  where the state is unsafe, so that bounds are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.safety.columns import columns_of_all
from convgpu.core.safety.index import SafetyIndex
from convgpu.core.safety.joint import ALL, Chain, Joint, holder_of
from convgpu.core.safety.order import NEVER
from convgpu.core.safety.reach import OpenGroups, Reach
from convgpu.core.safety.stakes import Column, Stake, Stakes, column_of


class NestedIndex:
    """All stakes, and the answers that follow from them; asked as `SafetyIndex` is.

    Args:
        free: What is not assigned, by device.
        ruled: The devices under the rule.
    """

    def __init__(self, free: Mapping[GpuUuid, int], ruled: Collection[GpuUuid]) -> None:
        self._devices = SafetyIndex(free, ruled)
        self._groups: dict[GroupName, SafetyIndex] = {}
        self._open = OpenGroups(self._groups)
        self._paths: dict[ContainerId, Chain] = {}
        self._chains: dict[ContainerId, Chain] = {}  # the groups with a limit that it is in; not there: none
        self._spanning: Counter[GroupName] = Counter()
        """How many containers of each group with a limit use several devices."""
        self._tight: set[GroupName] = set()  # in which somebody lacks more than is free
        self._joint: Joint | None = None
        self._reach: dict[tuple[Chain, GpuUuid], AbstractSet[ContainerId]] = {}
        self._shut_in: dict[tuple[ContainerId, GpuUuid], tuple[tuple[int, int, list[GroupName]], GroupName | None]] = {}
        self._is_safe: bool | None = None
        self._asked = (ContainerId(""), GpuUuid(""), 0)
        self._changes = 0

    @property
    def changes(self) -> int:
        """Counts changes: while it stays the same, so do all answers."""
        return self._devices.changes + self._changes

    @property
    def free(self) -> Mapping[GpuUuid, int]:
        """What is not assigned, by device."""
        return self._devices.free

    @property
    def stakes(self) -> Stakes:
        """Every container's stakes in the devices."""
        return self._devices.stakes

    @property
    def ruled(self) -> Collection[GpuUuid]:
        """The devices under the rule."""
        return self._devices.ruled

    # Changes.

    def start(self, container: ContainerId, missing: Mapping[GpuUuid, int], path: Chain = ()) -> None:
        """A container begins, in these groups, the outermost first; nothing is assigned to it yet."""
        self._devices.start(container, missing)
        if path:
            self._paths[container] = path
            self._join(container)
        self._changed(container, stays_safe=True)

    def assign(self, container: ContainerId, gpu: GpuUuid, change_bytes: int, missing_bytes: int) -> None:
        """Move bytes from free to assigned, or back if below zero; so much is missing then: as much less, or more."""
        if not self._groups:
            self._devices.assign(container, gpu, change_bytes, missing_bytes)
            return
        if change_bytes > 0:
            stays_safe = (container, gpu) == self._asked[:2] and change_bytes <= self._asked[2]
        else:
            stays_safe = self.room(container, gpu) >= 0
        self._devices.assign(container, gpu, change_bytes, missing_bytes)
        for group in self._chains.get(container, ()):
            if gpu in self._groups[group].free:
                self._groups[group].assign(container, gpu, change_bytes, missing_bytes)
        self._tell_free(container, gpu, -change_bytes)
        self._changed(container, stays_safe=stays_safe)

    def set_missing(self, container: ContainerId, gpu: GpuUuid, missing_bytes: int) -> None:
        """A container has another limit, or its groups have."""
        old = self.stakes[container][gpu]
        if missing_bytes == old.missing:
            return
        self._devices.set_missing(container, gpu, missing_bytes)
        for group in self._chains.get(container, ()):
            if gpu in self._groups[group].free:
                self._groups[group].set_missing(container, gpu, missing_bytes)
        self._changed(container, stays_safe=missing_bytes <= old.missing)

    def set_free(self, gpu: GpuUuid, free_bytes: int) -> None:
        """There is more or less of a device; what is assigned stays."""
        more_bytes = free_bytes - self.free[gpu]
        self._devices.set_free(gpu, free_bytes)
        if self._joint is not None and gpu in self.ruled:
            self._joint.add_free(ALL, self._place(gpu), more_bytes)
        self._changed(stays_safe=more_bytes >= 0)

    def remove(self, container: ContainerId) -> None:
        """A container ended: what was assigned to it is free."""
        if self._joint is not None:
            self._joint.drop(container)
            for gpu, stake in self.stakes[container].items():
                self._tell_free(container, gpu, stake.assigned)
        self._leave(container)
        self._paths.pop(container, None)
        for gpu in self.stakes[container]:
            self._shut_in.pop((container, gpu), None)
        self._devices.remove(container)
        self._changed(stays_safe=True)

    def set_ruled(self, ruled: Collection[GpuUuid]) -> None:
        """Have other devices under the rule."""
        self._devices.set_ruled(ruled)
        for group in self._groups.values():
            group.set_ruled(ruled)
        self._look_again()

    def set_group(self, group: GroupName, limits: Mapping[GpuUuid, int]) -> None:
        """A group has other limits, by device; none: it bounds nothing. What is missing to whom, has to follow."""
        members = [container for container, path in self._paths.items() if group in path]
        for container in members:
            self._leave(container)
        self._groups.pop(group, None)
        self._tight.discard(group)
        if limits:
            self._groups[group] = SafetyIndex(limits, self.ruled)
        for container in members:
            self._join(container)
        self._look_again()

    # Questions.

    def room(self, container: ContainerId, gpu: GpuUuid) -> int:
        """What is free for a container, in each of its groups too; below zero: somewhere too much is assigned."""
        free_bytes = self.free[gpu]
        for group in self._chains.get(container, ()):
            free_bytes = min(free_bytes, self._groups[group].free.get(gpu, free_bytes))
        return free_bytes

    def group_free(self, group: GroupName, gpu: GpuUuid) -> int | None:
        """What is not assigned of a group; None: it has no limit on the device."""
        index = self._groups.get(group)
        return None if index is None else index.free.get(gpu)

    def shut_in(
        self, container: ContainerId, gpu: GpuUuid, wanted_bytes: int, besides: Collection[GroupName] = ()
    ) -> GroupName | None:
        """The innermost group that would not let a container have so much, whatever the device has.

        Args:
            container: Its id.
            gpu: Of which device.
            wanted_bytes: How much more.
            besides: Groups that are not to be looked at.
        """
        chain = self._chains.get(container)
        if chain is None:
            return None
        asked = (sum(self._groups[group].changes for group in chain), wanted_bytes, [g for g in chain if g in besides])
        known = self._shut_in.get((container, gpu))
        if known is not None and known[0] == asked:
            return known[1]
        found = self._look_for_full(container, gpu, wanted_bytes, [group for group in chain if group not in besides])
        self._shut_in[container, gpu] = (asked, found)
        return found

    def _look_for_full(
        self, container: ContainerId, gpu: GpuUuid, wanted_bytes: int, chain: Sequence[GroupName]
    ) -> GroupName | None:
        for group in reversed(chain):
            index = self._groups[group]
            if gpu in index.free:
                lacks_bytes = min(wanted_bytes, index.stakes[container][gpu].missing)
                if max(0, index.free[gpu]) < lacks_bytes or index.grantable(container, gpu, lacks_bytes) < lacks_bytes:
                    return group
        return None

    def grantable(self, container: ContainerId, gpu: GpuUuid, wanted_bytes: int | None = None) -> int:
        """How much of what is free the container may be given so that all who can finish still can.

        Never more than it lacks, nor than is wanted, nor than its groups have; None: all that can be had.
        """
        if not self._groups:
            return self._devices.grantable(container, gpu, wanted_bytes)
        size_bytes = min(self.room(container, gpu), self.stakes[container][gpu].missing)
        if wanted_bytes is not None:
            size_bytes = min(size_bytes, wanted_bytes)
        if size_bytes <= 0:
            return 0
        if self.is_safe():
            size_bytes = self._bound(container, gpu, size_bytes)
            if size_bytes > 0 and self._must_look_at_all(container, gpu, size_bytes):
                size_bytes = self._of_all(container, gpu, size_bytes)
        elif gpu in self.ruled:
            size_bytes = self._of_all(container, gpu, size_bytes)
        self._asked = (container, gpu, size_bytes)
        return size_bytes

    def gives_nothing(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> bool:
        """Whether it can be seen at little cost that none of these can be given anything of the device.

        False does not mean that one of them can.
        """
        if not self._groups or self.is_safe():
            return self._devices.gives_nothing(gpu, waiting)
        return self.free[gpu] <= 0

    def receivers(self, gpu: GpuUuid, waiting: AbstractSet[ContainerId]) -> Collection[ContainerId]:
        """Those of them that can be given something of the device, if they lack anything there.

        With groups some more may be named; `grantable` says of each of them.
        """
        if not self._groups:
            return self._devices.receivers(gpu, waiting)
        shut = {chain[1:]: reach for (chain, device), reach in self._reach.items() if device == gpu}
        if self.is_safe():
            return Reach(self._devices.receivers(gpu, waiting), self._chains, self._open.on(gpu), shut)
        found = {container for container in waiting if self.room(container, gpu) > 0}
        return Reach(found, self._chains, None, shut)

    def is_safe(self) -> bool:
        """Whether all containers can finish, as far as the devices under the rule are concerned."""
        if not self._groups:
            return self._devices.is_safe()
        if self._is_safe is None:
            self._is_safe = (
                self._devices.is_safe()
                and all(group.is_safe() for group in self._groups.values())
                and (self._tight.isdisjoint(self._spanning) or self._all().is_safe())
            )
        return self._is_safe

    def available_without(self, container: ContainerId) -> dict[GpuUuid, int]:
        """What a container could have, by device under the rule, when all others have finished that can without it."""
        if not self._groups:
            return self._devices.available_without(container)
        if not self.ruled:
            return {}
        return dict(zip(self.ruled, self._all().available_without(container, self._pools(container)), strict=True))

    def columns(self) -> tuple[dict[Column, int], dict[ContainerId, dict[Column, Stake]], set[Column]]:
        """Everything as plain stakes, with each group on each device as one more device: free, stakes, ruled."""
        return columns_of_all(self._devices, self._groups)

    def columns_of(self, container: ContainerId, gpu: GpuUuid) -> list[Column]:
        """In which columns a container's stake in a device counts."""
        groups = (group for group in self._chains.get(container, ()) if gpu in self._groups[group].free)
        return [gpu, *(column_of(gpu, group) for group in groups)]

    # How.

    def _bound(self, container: ContainerId, gpu: GpuUuid, size_bytes: int) -> int:
        """The most that the devices alone, and each of its groups alone, allow."""
        size_bytes = self._devices.grantable(container, gpu, size_bytes)
        for group in self._chains.get(container, ()):
            if size_bytes <= 0:
                break
            if gpu in self._groups[group].free:
                size_bytes = self._groups[group].grantable(container, gpu, size_bytes)
        return size_bytes

    def _must_look_at_all(self, container: ContainerId, gpu: GpuUuid, size_bytes: int) -> bool:
        """Whether it could be that each resource allows it, and all together do not."""
        if gpu not in self.ruled or not self._spanning or self._could_be_first(container):
            return False
        if not self._tight.isdisjoint(self._spanning):
            return True
        own = [self._groups[group] for group in self._chains.get(container, ()) if group in self._spanning]
        return any(gpu in group.free and group.is_tight(gpu, size_bytes) for group in own)

    def _could_be_first(self, container: ContainerId) -> bool:
        """Whether nobody has to finish before it; what is given to it then costs nobody anything."""
        held = self.stakes[container]
        return all(held[gpu].missing <= max(0, self.room(container, gpu)) for gpu in held if gpu in self.ruled)

    def _of_all(self, container: ContainerId, gpu: GpuUuid, size_bytes: int) -> int:
        """The answer from all resources together; from one that is nothing, who else of its chain gets nothing."""
        chain = self._pools(container)
        reach = self._reach.get((chain, gpu))
        if reach is not None and container not in reach:
            return 0
        size_bytes = self._all().grantable(container, self._place(gpu), size_bytes)
        if size_bytes == 0 and reach is None:
            able = self._all().receivers(chain, self._place(gpu))
            if able is not None:
                self._reach[chain, gpu] = able
        return size_bytes

    def _all(self) -> Joint:
        """All resources together, from now on kept up to date."""
        if self._joint is None:
            free = {ALL: [self.free[gpu] for gpu in self.ruled]}
            for group, index in self._groups.items():
                free[group] = [index.free.get(gpu, NEVER) for gpu in self.ruled]
            self._joint = Joint(free)
            for container in self.stakes:
                self._joint.put(holder_of(container, self.stakes[container], self.ruled), self._pools(container))
        return self._joint

    def _tell_free(self, container: ContainerId, gpu: GpuUuid, change_bytes: int) -> None:
        """More or less is free where a container's stake in a device counts."""
        if self._joint is not None and gpu in self.ruled:
            for pool in self._pools(container):
                if pool == ALL or gpu in self._groups[pool].free:
                    self._joint.add_free(pool, self._place(gpu), change_bytes)

    def _pools(self, container: ContainerId) -> Chain:
        return (ALL, *self._chains.get(container, ()))

    def _place(self, gpu: GpuUuid) -> int:
        return list(self.ruled).index(gpu)

    def _join(self, container: ContainerId) -> None:
        """Make a container known to its groups with a limit, as it is."""
        chain = tuple(group for group in self._paths[container] if group in self._groups)
        if not chain:
            return
        self._chains[container] = chain
        if self._spans(container):
            self._spanning.update(chain)
        for group in chain:
            index = self._groups[group]
            if container in index.stakes:
                continue
            held = {gpu: stake for gpu, stake in self.stakes[container].items() if gpu in index.free}
            index.start(container, {gpu: stake.assigned + stake.missing for gpu, stake in held.items()})
            for gpu, stake in held.items():
                if stake.assigned:
                    index.assign(container, gpu, stake.assigned, stake.missing)

    def _leave(self, container: ContainerId) -> None:
        """Make a container unknown to its groups; to be called while its stakes are known."""
        spans = self._spans(container)
        for group in self._chains.pop(container, ()):
            self._groups[group].remove(container)
            self._note_change(group)
            if spans:
                self._spanning[group] -= 1
                if not self._spanning[group]:
                    del self._spanning[group]

    def _spans(self, container: ContainerId) -> bool:
        """Whether it uses several devices under the rule."""
        return sum(gpu in self.ruled for gpu in self.stakes[container]) > 1

    def _look_again(self) -> None:
        """Something has changed that much may depend on."""
        self._joint = None
        self._shut_in.clear()
        self._open.forget()
        spanning = (container for container in self._chains if self._spans(container))
        self._spanning = Counter(group for container in spanning for group in self._chains[container])
        for group in self._groups:
            self._note_change(group)
        self._changed(stays_safe=False)

    def _note_change(self, group: GroupName) -> None:
        self._open.note(group)
        index = self._groups[group]
        if any(index.is_tight(gpu) for gpu in index.free if gpu in self.ruled):
            self._tight.add(group)
        else:
            self._tight.discard(group)

    def _changed(self, container: ContainerId | None = None, *, stays_safe: bool) -> None:
        """Something has changed; `stays_safe`: if all could finish, they still can."""
        self._changes += 1
        if container is not None and container in self.stakes:
            if self._joint is not None:
                self._joint.put(holder_of(container, self.stakes[container], self.ruled), self._pools(container))
            for group in self._chains.get(container, ()):
                self._note_change(group)
        self._asked = (ContainerId(""), GpuUuid(""), 0)
        if self._reach:
            self._reach = {}
        if self._is_safe is not True or not stays_safe:
            self._is_safe = None
