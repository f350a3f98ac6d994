# SPDX-License-Identifier: Apache-2.0
"""The judge: who may hold how much, who waits, who is next.

Every method is an event with the time at which it happens; it returns the decisions that the event causes, in the order
in which they were taken. The same events give the same decisions, so a recorded log can be played again.

What holds after every event (`check` asserts it): used <= assigned <= limit for every container that is not over;
the assigned bytes of a device add up to no more than its capacity; nothing waits that fits, and nothing waits while
something free could be given to it; all containers could run to their limits in some order. Only what happens outside
of the engine's control can break the second and the last: memory that was taken by force, and capacity that is lost.
Then unused assignments are taken back, the latest container's first, and nothing is granted that makes it worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convgpu.core.algorithms import Algorithm
from convgpu.core.decision import Decision, Denied, Reason
from convgpu.core.distribution import Distribution, waited_ns
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.ledger import Account, Holding
from convgpu.core.queue import QueueEntry
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.core.safety import run_to_end
from convgpu.core.units import format_size
from convgpu.errors import QuotaRefusedError, UnknownContainerError, UsageError


@dataclass(slots=True)
class _Container:
    wait_ns: int | None
    processes: set[ProcessKey] = field(default_factory=set)


class Engine:
    """Decides for all devices of one machine.

    Args:
        capacities: What may be assigned, by device.
        algorithm: Who is next among those that wait.
        safe: False: hand out free memory without the safety rule, to see what goes wrong without it.
    """

    def __init__(self, capacities: Mapping[GpuUuid, int], algorithm: Algorithm, *, safe: bool = True) -> None:
        self._rules = Distribution(capacities, algorithm, safe=safe)
        self._ledger = self._rules.ledger
        self._queue = self._rules.queue
        self._safe = safe
        self._containers: dict[ContainerId, _Container] = {}
        self._home: dict[ProcessKey, ContainerId] = {}

    # Events of containers and processes.

    def start_container(
        self,
        container: ContainerId,
        created_ns: int,
        quotas: Mapping[GpuUuid, Quota],
        *,
        wait_ns: int | None = None,
        priority: int = 0,
        assigned: Mapping[GpuUuid, int] | None = None,
    ) -> None:
        """A container begins, with its guarantee, or the part of it that is free and safe to give.

        Args:
            container: Its id.
            created_ns: When it was created; any clock, the same for all containers.
            quotas: Limit and guarantee on every device it may use.
            wait_ns: How long its requests may wait; None: for ever.
            priority: For algorithms that heed it.
            assigned: After a restart of the daemon: what was assigned to it before. It runs already, so it is not
                refused, and is given exactly this; nothing for devices that are not named.

        Raises:
            QuotaRefusedError: A limit is above the capacity of its device. Nothing has happened.
            UsageError: No such device.
        """
        if container in self._containers:
            raise ValueError(f"container {container} has started before")
        for gpu, quota in quotas.items():
            self._require_device(gpu)
            if assigned is None:
                self._refuse_above_capacity(gpu, quota)
        self._containers[container] = _Container(wait_ns)
        for holding in self._ledger.open(container, quotas, created_ns=created_ns, priority=priority):
            if assigned is None:
                self._rules.set_aside_guarantee(holding)
            else:
                self._rules.assign(holding, min(assigned.get(holding.gpu, 0), holding.quota.limit_bytes))
                self._rules.yield_to_outside(holding.gpu)

    def end_container(self, container: ContainerId, now_ns: int) -> list[Decision]:
        """A container ends: what waits is denied, all it held is free. One that is not known is no error."""
        decisions: list[Decision] = []
        ended = self._containers.pop(container, None)
        if ended is None:
            return decisions
        for process in ended.processes:
            del self._home[process]
        for holding in self._ledger.of(container):
            for waiter in tuple(holding.waiters):
                self._rules.deny_waiter(waiter, Reason.CONTAINER_GONE, now_ns, decisions)
        self._ledger.close(container)
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def start_process(self, process: ProcessKey, container: ContainerId) -> None:
        """A process joins its container; it holds nothing yet. Seen twice, it is no error.

        Raises:
            UnknownContainerError: The container has not started.
        """
        member = self._member(container)
        if self._home.setdefault(process, container) != container:
            raise ValueError(f"{process} is in container {self._home[process]} already")
        member.processes.add(process)

    def end_process(self, process: ProcessKey, container: ContainerId, now_ns: int) -> list[Decision]:
        """A process ends: what it held is free, its waiting requests vanish. Seen twice, it is no error."""
        decisions: list[Decision] = []
        if self._home.get(process) != container:
            return decisions
        del self._home[process]
        self._containers[container].processes.remove(process)
        for holding in self._ledger.of(container):
            gone = [waiter for waiter in holding.waiters if waiter.request.process == process]
            for waiter in gone:
                self._queue.drop(waiter, now_ns)
            held_bytes = holding.held.get(process, 0)
            if held_bytes:
                self._rules.hold(holding, process, -held_bytes)
            if gone or held_bytes:
                self._after_release(holding, now_ns, decisions)
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def adopt(self, process: ProcessKey, gpu: GpuUuid, held_bytes: int) -> None:
        """A process holds this much already, as its credit page says after a restart of the daemon.

        It is taken as it is. To be called before the first request: nobody waits yet.

        Raises:
            UnknownContainerError: The process has not been started in any container.
            UsageError: Its container has no quota on the device.
        """
        container = self._home.get(process)
        if container is None:
            raise UnknownContainerError(f"process {process.pid} belongs to no container that has started")
        holding = self._holding(container, gpu)
        if process in holding.held:
            raise ValueError(f"{process} has been adopted on {gpu} before")
        if held_bytes:
            self._rules.take_by_force(holding, process, held_bytes)

    # Events of memory.

    def request(self, request: Request, now_ns: int) -> list[Decision]:
        """A process asks for memory; the first decision is about this request, others may follow from it.

        A request that fits into what is assigned to its container is granted at once. Otherwise what it lacks is taken
        from what is free, if there is enough and the result is safe. Nobody is robbed by that: what is free after an
        event is what could be given to none of those that wait. A forced request is recorded whatever the limit says.
        """
        if request.request_id in self._queue:
            raise ValueError(f"request {request.request_id!r} waits already")
        if self._home.get(request.process) != request.container:
            return [Denied(request, Reason.UNKNOWN_CONTAINER, waited_ns(request, now_ns), None)]
        holding = self._ledger.find(request.container, request.gpu)
        if holding is None:
            return [Denied(request, Reason.DEVICE, waited_ns(request, now_ns), None)]
        decisions: list[Decision] = []
        if request.forced:
            self._rules.record_forced(holding, request, now_ns, decisions)
            self._rules.redistribute(now_ns, decisions)
        elif not holding.fits_limit(request.size_bytes):
            self._rules.deny(holding, request, Reason.LIMIT, now_ns, decisions)
        else:
            wait_ns = self._containers[request.container].wait_ns
            deadline_ns = None if wait_ns is None else request.arrived_ns + wait_ns
            if self._rules.grant_or_suspend(holding, deadline_ns, request, now_ns, decisions):
                self._rules.redistribute(now_ns, decisions)
        return decisions

    def release(self, process: ProcessKey, gpu: GpuUuid, size_bytes: int, now_ns: int) -> list[Decision]:
        """A process holds so much less: the daemon took back credit that it had not used.

        Raises:
            ValueError: It does not hold as much.
        """
        container = self._home.get(process)
        holding = self._ledger.find(container, gpu) if container else None
        held_bytes = holding.held.get(process, 0) if holding else 0
        if holding is None or not 0 < size_bytes <= held_bytes:
            raise ValueError(f"{process} holds {held_bytes} bytes on {gpu} and cannot give back {size_bytes}")
        decisions: list[Decision] = []
        self._rules.hold(holding, process, -size_bytes)
        self._after_release(holding, now_ns, decisions)
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def cancel(self, request_id: int | str, now_ns: int) -> list[Decision]:
        """Nobody waits for this request any more. One that does not wait is no error: the answer was on its way."""
        decisions: list[Decision] = []
        waiter = self._queue.find(request_id)
        if waiter is not None:
            self._queue.drop(waiter, now_ns)
            self._rules.give_back_surplus(waiter.holding)
            self._rules.redistribute(now_ns, decisions)
        return decisions

    def expire(self, now_ns: int) -> list[Decision]:
        """Deny the requests whose deadline has come."""
        decisions: list[Decision] = []
        for waiter in self._queue.expired(now_ns):
            self._rules.deny_waiter(waiter, Reason.WAIT_TIMEOUT, now_ns, decisions)
            self._rules.give_back_surplus(waiter.holding)
        if decisions:
            self._rules.redistribute(now_ns, decisions)
        return decisions

    # Events of settings.

    def set_quota(self, container: ContainerId, gpu: GpuUuid, quota: Quota, now_ns: int) -> list[Decision]:
        """Change limit and guarantee of a running container.

        Lowered below what it uses, nothing is taken away: the container is over, and gets nothing until it is under.
        Waiting requests that the new limit can no longer allow are denied.

        Raises:
            QuotaRefusedError: The limit is above the capacity, or so high that containers could block each other.
            UnknownContainerError: No such container.
            UsageError: The container has no quota on this device.
        """
        holding = self._holding(container, gpu)
        old = holding.quota
        self._refuse_above_capacity(gpu, quota)
        if quota.limit_bytes > old.limit_bytes and self._safe:
            self._refuse_unsafe(holding, quota)
        decisions: list[Decision] = []
        self._ledger.set_quota(holding, quota)
        self._queue.touch(holding)
        self._rules.deny_beyond_limit(holding, now_ns, decisions)
        if quota.limit_bytes < old.limit_bytes or quota.guarantee_bytes < old.guarantee_bytes:
            self._rules.give_back_surplus(holding)
        if quota.guarantee_bytes > old.guarantee_bytes:
            self._rules.set_aside_guarantee(holding)
            self._rules.resume(holding, now_ns, decisions)
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def set_capacity(self, gpu: GpuUuid, capacity_bytes: int, now_ns: int) -> list[Decision]:
        """What may be assigned has changed: others hold more or less of the device.

        Raises:
            UsageError: No such device.
        """
        self._require_device(gpu)
        decisions: list[Decision] = []
        self._ledger.set_capacity(gpu, capacity_bytes)
        self._rules.yield_to_outside(gpu)
        self._rules.redistribute(now_ns, decisions)
        return decisions

    # Questions.

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

    def held(self, process: ProcessKey, gpu: GpuUuid) -> int:
        """What a process holds on a device, in bytes."""
        container = self._home.get(process)
        holding = self._ledger.find(container, gpu) if container else None
        return holding.held.get(process, 0) if holding else 0

    def headroom(self, container: ContainerId, gpu: GpuUuid) -> int:
        """Bytes that would be granted from what is assigned, without touching what is free."""
        holding = self._holding(container, gpu)
        beside_waiters = holding.quota.limit_bytes - holding.used_bytes - holding.waiting_bytes
        return max(0, min(holding.room_bytes, beside_waiters))

    def surplus(self, gpu: GpuUuid) -> tuple[ContainerId, ...]:
        """Containers that are assigned more than their guarantee: their idle credit helps those that wait."""
        holdings = self._ledger.holdings(gpu)
        return tuple(h.container for h in holdings if h.assigned_bytes > h.quota.guarantee_bytes)

    def queue(self, gpu: GpuUuid) -> tuple[QueueEntry, ...]:
        """All requests that wait on a device, the next one first."""
        return tuple(self._queue.entries(gpu, self._ledger.free(gpu)))

    def waiting_gpus(self) -> tuple[GpuUuid, ...]:
        """Devices on which somebody waits."""
        return tuple(self._queue.gpus())

    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do; None: nothing that waits has a deadline."""
        return self._queue.next_deadline_ns()

    def free_bytes(self, gpu: GpuUuid) -> int:
        """Capacity minus all that is assigned; below zero where the outside took what was assigned."""
        return self._ledger.free(gpu)

    def capacity(self, gpu: GpuUuid) -> int:
        """What may be assigned on a device, in bytes."""
        return self._ledger.capacity(gpu)

    def is_safe(self) -> bool:
        """Whether all containers could run to their limits and end, one after another."""
        return self._ledger.is_safe()

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold. For tests; takes time."""
        self._rules.check()

    # How.

    def _after_release(self, holding: Holding, now_ns: int, decisions: list[Decision]) -> None:
        """What a container gives back serves its own waiting requests first, as far as it makes them fit."""
        self._rules.resume(holding, now_ns, decisions)
        self._rules.give_back_surplus(holding)

    def _refuse_above_capacity(self, gpu: GpuUuid, quota: Quota) -> None:
        capacity_bytes = self._ledger.capacity(gpu)
        if quota.limit_bytes > capacity_bytes:
            raise QuotaRefusedError(
                f"a limit of {format_size(quota.limit_bytes)} is more than the {format_size(capacity_bytes)} "
                f"that {gpu} has for containers",
                next_step=f"choose a limit of at most {format_size(capacity_bytes)}",
            )

    def _refuse_unsafe(self, holding: Holding, quota: Quota) -> None:
        """Refuse a raised limit with which a container that could run to its limit no longer could."""
        stakes = self._ledger.index.stakes
        others = {name: held for name, held in stakes.items() if name != holding.container}
        _, available = run_to_end(self._ledger.index.free, others)
        own = stakes[holding.container]
        can_finish = all(not stake.missing or stake.missing <= available[gpu] for gpu, stake in own.items())
        most_bytes = holding.assigned_bytes + max(0, available[holding.gpu])
        if can_finish and self._ledger.missing(holding, quota.limit_bytes) > available[holding.gpu]:
            raise QuotaRefusedError(
                f"with a limit of {format_size(quota.limit_bytes)} containers could wait for each other for ever: "
                f"not more than {format_size(most_bytes)} can be brought together for this one",
                next_step=f"choose a limit of at most {most_bytes} bytes, or let another container end or give back "
                "memory first",
            )

    def _require_device(self, gpu: GpuUuid) -> None:
        if gpu not in self._ledger.gpus:
            raise UsageError(f"there is no device {gpu}")

    def _member(self, container: ContainerId) -> _Container:
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
