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

from collections.abc import Collection, Mapping

from convgpu.core.adjustments import Adjustments
from convgpu.core.algorithms import Algorithm
from convgpu.core.bypass import DEFAULT_MAX_BYPASS
from convgpu.core.decision import Decision, Denied, Reason
from convgpu.core.distribution import Distribution, waited_ns
from convgpu.core.groups import GroupLimits, path_of
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.ledger import Carried, Holding
from convgpu.core.questions import Member
from convgpu.core.queue import Queue
from convgpu.core.quota import Quota
from convgpu.core.refusal import refuse_above_capacity, refuse_above_groups
from convgpu.core.request import Request
from convgpu.errors import UnknownContainerError


class Engine(Adjustments):
    """Decides for all devices of one machine.

    Args:
        capacities: What may be assigned, by device.
        algorithm: Who is next among those that wait.
        safe: The devices under the safety rule; True: all. On the others free memory is handed out without it, to see
            what goes wrong without it.
        max_bypass: How often a waiter may be passed over before it becomes head of the line; 0: without bound.
        seed: For algorithms that leave something to chance; the same events with the same seed, the same decisions.
        groups: Limits of groups.
    """

    def __init__(
        self,
        capacities: Mapping[GpuUuid, int],
        algorithm: Algorithm,
        *,
        safe: bool | Collection[GpuUuid] = True,
        max_bypass: int = DEFAULT_MAX_BYPASS,
        seed: int = 0,
        groups: GroupLimits | None = None,
    ) -> None:
        queue = Queue(algorithm, max_bypass=max_bypass, seed=seed)
        rules = Distribution(capacities, queue, safe=safe)
        for group, limits in (groups or {}).items():
            rules.ledger.set_group(group, limits)
        super().__init__(rules, queue)

    # Events of containers and processes.

    def start_container(
        self,
        container: ContainerId,
        created_ns: int,
        quotas: Mapping[GpuUuid, Quota],
        *,
        wait_ns: int | None = None,
        priority: int = 0,
        group: GroupName | None = None,
        queued_ns: int | None = None,
        now_ns: int = 0,
    ) -> list[Decision]:
        """A container begins, with its guarantee, or the part of it that is free and safe to give.

        Args:
            container: Its id.
            created_ns: When it was created; any clock, the same for all containers.
            quotas: Limit and guarantee on every device it may use.
            wait_ns: How long its requests, and its start, may wait; None: for ever.
            priority: For algorithms that heed it.
            group: In which group it is, and in all that this one is in.
            queued_ns: Since when it waits for its whole guarantee before it starts (`--admit=wait`), CLOCK_MONOTONIC;
                `Admitted` is its answer, now or later. None: it starts with what there is.
            now_ns: CLOCK_MONOTONIC; needed only where `queued_ns` is given.

        Raises:
            QuotaRefusedError: A limit is above the capacity of its device, or that of a group. Nothing has happened.
            UsageError: No such device.
        """
        for gpu, quota in quotas.items():
            self._require_device(gpu)
            refuse_above_capacity(self._ledger, gpu, quota)
            refuse_above_groups(self._ledger, gpu, quota, path_of(group))
        holdings = self._open(container, created_ns, quotas, wait_ns, priority, group)
        self._queue.bypass.start(container, quotas, path_of(group))
        decisions: list[Decision] = []
        if queued_ns is None:
            for holding in holdings:
                self._rules.set_aside_guarantee(holding)
        else:
            deadline_ns = None if wait_ns is None else queued_ns + wait_ns
            self._rules.wait_for_start(tuple(holdings), queued_ns, deadline_ns, now_ns, decisions)
        return decisions

    def restore_container(
        self,
        container: ContainerId,
        created_ns: int,
        quotas: Mapping[GpuUuid, Quota],
        *,
        carried: Mapping[GpuUuid, Carried],
        wait_ns: int | None = None,
        priority: int = 0,
        group: GroupName | None = None,
    ) -> None:
        """A container runs already, as an earlier daemon left it. It is not refused, and is given exactly what it had.

        Args:
            container: Its id.
            created_ns: As for `start_container`, like the arguments that are not named here.
            quotas: As for `start_container`.
            carried: What it had, by device, as `take_altered` told; nothing for devices that are not named.
            wait_ns: As for `start_container`.
            priority: As for `start_container`.
            group: As for `start_container`.

        Raises:
            UsageError: No such device.
        """
        for gpu in quotas:
            self._require_device(gpu)
        for holding in self._open(container, created_ns, quotas, wait_ns, priority, group):
            before = carried.get(holding.gpu, Carried(0))
            holding.denied = before.denied
            holding.ended_suspension_ns = before.suspended_ns
            holding.passed_before = before.passed
            self._rules.assign(holding, min(before.assigned_bytes, holding.quota.limit_bytes))
            self._rules.yield_to_outside(holding.gpu)

    def end_container(self, container: ContainerId, now_ns: int) -> list[Decision]:
        """A container ends: what waits is denied, all it held is free. One that is not known is no error."""
        decisions: list[Decision] = []
        if container not in self._containers:
            return decisions
        start = self._rules.admission.find(container)
        if start is not None:
            self._rules.give_up_start(start, Reason.CONTAINER_GONE, now_ns, decisions)
        for holding in self._ledger.of(container):
            for waiter in tuple(holding.waiters):
                self._rules.deny_waiter(waiter, Reason.CONTAINER_GONE, now_ns, decisions)
        self._close(container)
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
                self._rules.drop(waiter, now_ns)
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

    def take_altered(self) -> list[tuple[ContainerId, GpuUuid, Carried]]:
        """Return what has changed since the last call and must outlive the daemon, for `restore_container`.

        What takes from a container comes before what gives to one: whoever stores them one by one never stores more
        than there is.
        """
        altered = self._ledger.take_altered()
        passed = self._queue.bypass.take_passed()
        if not altered and not passed:
            return []
        for place in passed:
            for gpu in place.gpus:
                holding = self._ledger.find(place.container, gpu)
                if holding is not None:
                    altered.setdefault(holding, holding.assigned_bytes)
        by_gain = sorted(altered, key=lambda holding: holding.assigned_bytes - altered[holding])
        return [(holding.container, holding.gpu, holding.carried()) for holding in by_gain]

    # Events of memory.

    def request(self, request: Request, now_ns: int) -> list[Decision]:
        """A process asks for memory; the first decision is about this request, others may follow from it.

        A request that fits into what is assigned to its container is granted at once. Otherwise what it lacks is taken
        from what is free, if there is enough and the result is safe. Nobody is robbed by that: what is free after an
        event is what could be given to none of those that wait. A forced request is recorded whatever the limit says.
        """
        if request.request_id in self._queue:
            raise ValueError(f"request {request.request_id!r} waits already")
        if request.size_bytes <= 0:
            raise ValueError(f"request {request.request_id!r} is for {request.size_bytes} bytes; it must be at least 1")
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
            self._rules.deny(holding, request, holding.limit_reason(request.size_bytes), now_ns, decisions)
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
            self._rules.drop(waiter, now_ns)
            self._rules.give_back_surplus(waiter.holding)
            self._rules.redistribute(now_ns, decisions)
        return decisions

    def expire(self, now_ns: int) -> list[Decision]:
        """Deny the requests whose deadline has come."""
        decisions: list[Decision] = []
        for waiter in self._queue.expired(now_ns):
            self._rules.deny_waiter(waiter, Reason.WAIT_TIMEOUT, now_ns, decisions)
            self._rules.give_back_surplus(waiter.holding)
        for start in self._rules.admission.expired(now_ns):
            self._rules.give_up_start(start, Reason.WAIT_TIMEOUT, now_ns, decisions)
            self._close(start.container)
        if decisions:
            self._rules.redistribute(now_ns, decisions)
        return decisions

    def restore_turn(self, gpu: GpuUuid, turn: int) -> None:
        """Go on drawing where an earlier daemon stopped; see `turn`."""
        self._queue.bypass.restore_turn(gpu, turn)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold. For tests; takes time."""
        self._rules.check()

    # How.

    def _open(
        self,
        container: ContainerId,
        created_ns: int,
        quotas: Mapping[GpuUuid, Quota],
        wait_ns: int | None,
        priority: int,
        group: GroupName | None,
    ) -> list[Holding]:
        if container in self._containers:
            raise ValueError(f"container {container} has started before")
        self._containers[container] = Member(wait_ns)
        return self._ledger.open(container, quotas, created_ns=created_ns, priority=priority, path=path_of(group))

    def _close(self, container: ContainerId) -> None:
        for process in self._containers.pop(container).processes:
            del self._home[process]
        self._ledger.close(container)
        self._queue.bypass.forget(container)

    def _after_release(self, holding: Holding, now_ns: int, decisions: list[Decision]) -> None:
        """What a container gives back serves its own waiting requests first, as far as it makes them fit."""
        self._rules.resume(holding, now_ns, decisions)
        self._rules.give_back_surplus(holding)
