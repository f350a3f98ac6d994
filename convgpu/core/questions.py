# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the engine: nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from convgpu.core.admission import Admission, PendingStart
from convgpu.core.bypass import Place
from convgpu.core.explain import Explanation, explain
from convgpu.core.groups import GroupAccount, GroupLimits
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.ledger import Account, Carried, Holding, Ledger
from convgpu.core.queue import Queue, QueueEntry
from convgpu.core.quota import Quota
from convgpu.errors import UnknownContainerError, UsageError


@dataclass(slots=True)
class Member:
    """A container that has begun.

    Attributes:
        wait_ns: How long its requests may wait; None: for ever.
        processes: Those that have joined.
    """

    wait_ns: int | None
    processes: set[ProcessKey] = field(default_factory=set)


class Questions:
    """The side of the engine that only looks."""

    def __init__(self, ledger: Ledger, queue: Queue, admission: Admission) -> None:
        self._ledger = ledger
        self._queue = queue
        self._admission = admission
        self._containers: dict[ContainerId, Member] = {}
        self._home: dict[ProcessKey, ContainerId] = {}

    def turn(self, gpu: GpuUuid) -> int:
        """How often something of the device was given away: with the seed, what chance depends on."""
        return self._queue.bypass.turn(gpu)

    @property
    def gpus(self) -> tuple[GpuUuid, ...]:
        """All devices."""
        return tuple(self._ledger.gpus)

    def account(self, container: ContainerId, gpu: GpuUuid, now_ns: int) -> Account:
        """One container on one device at this time.

        Raises:
            UnknownContainerError: No such container.
            UsageError: The container has no quota on this device.
        """
        return self._holding(container, gpu).account(now_ns)

    def quotas(self, container: ContainerId) -> dict[GpuUuid, Quota]:
        """Limit and guarantee of a container on each of its devices.

        Raises:
            UnknownContainerError: No such container.
        """
        self._member(container)
        return {holding.gpu: holding.quota for holding in self._ledger.of(container)}

    def carried(self, container: ContainerId, gpu: GpuUuid) -> Carried:
        """What of a container on a device must outlive the daemon.

        Raises:
            UnknownContainerError: No such container.
            UsageError: The container has no quota on this device.
        """
        return self._holding(container, gpu).carried()

    def held(self, process: ProcessKey, gpu: GpuUuid) -> int:
        """What a process holds on a device, in bytes."""
        container = self._home.get(process)
        holding = self._ledger.find(container, gpu) if container else None
        return holding.held.get(process, 0) if holding else 0

    def headroom(self, container: ContainerId, gpu: GpuUuid) -> int:
        """Bytes that would be granted from what is assigned, without touching what is free."""
        holding = self._holding(container, gpu)
        beside_waiters = holding.most_bytes - holding.used_bytes - holding.waiting_bytes
        return max(0, min(holding.room_bytes, beside_waiters))

    def surplus(self, gpu: GpuUuid) -> tuple[ContainerId, ...]:
        """Containers that are assigned more than their guarantee: their idle credit helps those that wait."""
        holdings = self._ledger.holdings(gpu)
        return tuple(h.container for h in holdings if h.assigned_bytes > h.quota.guarantee_bytes)

    def queue(self, gpu: GpuUuid) -> tuple[QueueEntry, ...]:
        """All requests that wait on a device, the next one first."""
        return tuple(self._queue.entries(gpu, self._ledger.free(gpu)))

    def is_overdue(self, place: Place) -> bool:
        """Whether a party is at the head of the line because it was passed over too often."""
        return self._queue.bypass.is_overdue(place)

    def explain(self, request_id: int | str) -> Explanation | None:
        """Why a request waits and what would let it go on; None: it does not wait. For people: it takes its time."""
        waiter = self._queue.find(request_id)
        if waiter is None:
            return None
        need_bytes = waiter.holding.need_bytes(waiter.request.size_bytes)
        return explain(
            self._ledger,
            self._queue.bypass,
            waiter.holding,
            need_bytes,
            safe=self._ledger.holds_rule(waiter.holding.gpu),
        )

    def explain_start(self, start: PendingStart) -> dict[GpuUuid, Explanation]:
        """Why a start waits, on each device where it does not find its guarantee."""
        return {
            holding.gpu: explain(
                self._ledger,
                self._queue.bypass,
                holding,
                holding.quota.guarantee_bytes,
                safe=self._ledger.holds_rule(holding.gpu),
            )
            for holding in start.holdings
            if holding.quota.guarantee_bytes > self._ledger.spare(holding)
        }

    def groups(self) -> list[GroupName]:
        """All groups with a limit or with containers."""
        return self._ledger.groups.names()

    def group_limits(self) -> GroupLimits:
        """The limits of groups."""
        return self._ledger.groups.limits

    def group_account(self, group: GroupName, gpu: GpuUuid) -> GroupAccount:
        """One group on one device, as it is now; one that is not known has no members."""
        return self._ledger.groups.account(group, gpu)

    def full_group(self, container: ContainerId, gpu: GpuUuid, need_bytes: int) -> GroupName | None:
        """The innermost group that would not let a container have so much more, whatever the device has."""
        return self._ledger.index.shut_in(container, gpu, need_bytes)

    def most_bytes(self, container: ContainerId, gpu: GpuUuid) -> int:
        """What a container may hold at most: its limit, or that of a group if that is lower.

        Raises:
            UnknownContainerError: No such container.
            UsageError: The container has no quota on this device.
        """
        return self._holding(container, gpu).most_bytes

    def waiting_gpus(self) -> tuple[GpuUuid, ...]:
        """Devices on which somebody waits, for memory or for its start."""
        waiting = self._queue.gpus()
        if self._admission:
            waiting = sorted({*waiting, *(gpu for start in self._admission for gpu in start.place.gpus)})
        return tuple(waiting)

    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do; None: nothing that waits has a deadline."""
        if not self._queue and not self._admission:
            return None
        deadlines = (self._queue.next_deadline_ns(), self._admission.next_deadline_ns())
        return min((deadline_ns for deadline_ns in deadlines if deadline_ns is not None), default=None)

    def free_bytes(self, gpu: GpuUuid) -> int:
        """Capacity minus all that is assigned; below zero where the outside took what was assigned."""
        return self._ledger.free(gpu)

    def capacity(self, gpu: GpuUuid) -> int:
        """What may be assigned on a device, in bytes."""
        return self._ledger.capacity(gpu)

    def is_safe(self) -> bool:
        """Whether all containers could run to their limits and end, one after another."""
        return self._ledger.is_safe()

    def pending_starts(self) -> tuple[PendingStart, ...]:
        """Containers that wait for their start, the first that came first."""
        return tuple(self._admission)

    def passed(self, container: ContainerId, gpu: GpuUuid) -> int:
        """How often the container was passed over on a device since its first waiting request arrived."""
        place = self._holding(container, gpu).place
        return place.passed if place is not None else 0

    def _member(self, container: ContainerId) -> Member:
        member = self._containers.get(container)
        if member is None:
            raise UnknownContainerError(f"container {container[:12]} is not known")
        return member

    def _holding(self, container: ContainerId, gpu: GpuUuid) -> Holding:
        self._member(container)
        holding = self._ledger.find(container, gpu)
        if holding is None:
            raise UsageError(f"container {container[:12]} has no limit on {gpu}")
        return holding
