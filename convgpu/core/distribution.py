# SPDX-License-Identifier: Apache-2.0
"""How bytes move between free, assigned and used, and how what is free reaches those who wait.

The rules of the engine, one method each; the engine says which apply to which event, and in which order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial

from convgpu.core.admission import Admission, PendingStart
from convgpu.core.bypass import Place
from convgpu.core.decision import Admitted, Decision, Denied, Granted, NotAdmitted, Reason, Suspended
from convgpu.core.group_rules import shuts_in
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.ledger import Holding, Ledger, Waiter
from convgpu.core.queue import Queue
from convgpu.core.request import Request


class Distribution:
    """Ledger and queue of all devices, and the rules by which they change.

    Args:
        capacities: What may be assigned, by device.
        queue: Who waits for memory.
        safe: The devices under the safety rule; True: all, False: none.

    Attributes:
        ledger: Who holds what.
        queue: Who waits for memory.
        admission: Who waits for its start.
        unsafe_from_outside: The state is unsafe since memory was taken by force, capacity was lost, or something was
            handed out while a device was not under the rule.
    """

    def __init__(self, capacities: Mapping[GpuUuid, int], queue: Queue, *, safe: bool | Collection[GpuUuid]) -> None:
        self.ledger = Ledger(capacities, safe=safe)
        self.queue = queue
        self.admission = Admission(queue.bypass)
        queue.bypass.shuts_in = partial(shuts_in, self.ledger)
        self.unsafe_from_outside = False
        self._at_rest_since: tuple[int, int] | None = None

    def spare(self, holding: Holding, wanted_bytes: int | None = None) -> int:
        """How much of what is free it may be given now: within its limit, safe, and not held back for others."""
        if self.queue.bypass.is_held_back(holding.container):
            return 0
        return self.ledger.spare(holding, wanted_bytes)

    def grant_or_suspend(
        self, holding: Holding, deadline_ns: int | None, request: Request, now_ns: int, decisions: list[Decision]
    ) -> bool:
        """Decide about a request that is within the limit; True: something is to be redistributed."""
        need_bytes = holding.need_bytes(request.size_bytes)
        if need_bytes <= 0 or need_bytes <= self.spare(holding, need_bytes):
            if need_bytes > 0:
                self.give(holding, need_bytes)
            decisions.append(self._granted(holding, request, now_ns))
            self.hold(holding, request.process, request.size_bytes)
            return need_bytes > 0
        if not request.waitable:
            self.deny(holding, request, Reason.NOT_NOW, now_ns, decisions)
            return False
        if deadline_ns is not None and deadline_ns <= now_ns:
            self.deny(holding, request, Reason.WAIT_TIMEOUT, now_ns, decisions)
            return False
        numbers = self.ledger.numbers(holding)
        waiter = self.queue.add(holding, request, deadline_ns)
        position = self.queue.position(waiter, self.ledger.free(holding.gpu))
        group = self.ledger.index.shut_in(holding.container, holding.gpu, need_bytes)
        decisions.append(Suspended(request, need_bytes, position, numbers, group))
        if self.spare(holding, 1) > 0:
            self.disturb()
        return True

    def record_forced(self, holding: Holding, request: Request, now_ns: int, decisions: list[Decision]) -> None:
        """Grant what the driver has given already; waiting requests for which the limit has no room now are denied."""
        decisions.append(self._granted(holding, request, now_ns))
        self.take_by_force(holding, request.process, request.size_bytes)
        before = len(decisions)
        self.deny_beyond_limit(holding, now_ns, decisions)
        if len(decisions) > before:
            self.give_back_surplus(holding)

    def take_by_force(self, holding: Holding, process: ProcessKey, size_bytes: int) -> None:
        """A process holds more, whether it may or not."""
        need_bytes = holding.need_bytes(size_bytes)
        self.queue.bypass.forget(holding.container)  # it holds something: others may depend on it from now on
        controlled = need_bytes <= self.ledger.spare(holding, need_bytes)
        if need_bytes > 0:
            self.assign(holding, need_bytes)
        self.hold(holding, process, size_bytes)
        if need_bytes > 0 and not controlled:
            self.yield_to_outside(holding.gpu)

    def redistribute(self, now_ns: int, decisions: list[Decision]) -> None:
        """Give what is free to those that wait, as the algorithm ranks them, until nothing more can be given.

        Then it is at rest: to each of those that wait, nothing can be given. That depends on nothing but the stakes.
        """
        if self._at_rest_since == self._changes():
            return
        if self.unsafe_from_outside:
            self.unsafe_from_outside = not self.ledger.index.is_safe()
        given = True
        while given:  # what is given on one device can make it safe to give on another
            given = False
            for gpu in self.queue.gpus():
                while self._serve_next(gpu, now_ns, decisions):
                    given = True
            for start in self.admission:
                given |= self._admit(start, now_ns, decisions)
        self._at_rest_since = self._changes()

    def set_safe(self, gpu: GpuUuid, *, safe: bool) -> None:
        """Heed the safety rule on a device from now on, or no longer; what was done without it stays."""
        self.ledger.set_safe(gpu, safe=safe)
        self.unsafe_from_outside = not self.ledger.index.is_safe()

    def disturb(self) -> None:
        """Something else than the stakes has changed: the next redistribution looks at everybody."""
        self._at_rest_since = None

    def resume(self, holding: Holding, now_ns: int, decisions: list[Decision]) -> None:
        """Grant what waits and now fits into what is assigned, in order of arrival."""
        for waiter in tuple(holding.waiters) if holding.room_bytes > 0 else ():
            request = waiter.request
            if request.size_bytes <= holding.room_bytes:
                self.drop(waiter, now_ns)
                decisions.append(self._granted(holding, request, now_ns, resumed=True))
                self.hold(holding, request.process, request.size_bytes)

    def give_back_surplus(self, holding: Holding) -> None:
        """What is assigned above use and guarantee returns to what is free; all that is not used, if that is short."""
        surplus_bytes = holding.assigned_bytes - holding.keep_bytes
        short_bytes = self.ledger.short(holding)
        if short_bytes > surplus_bytes:
            surplus_bytes = min(short_bytes, holding.room_bytes)
        if surplus_bytes > 0:
            self.assign(holding, -surplus_bytes)
            if short_bytes > 0:
                # It lacks more now, and nobody gained by it: what it gave back was not there any more.
                self.unsafe_from_outside = not self.ledger.index.is_safe()

    def set_aside_guarantee(self, holding: Holding) -> None:
        """Assign the guarantee, or the part of it that is free and safe to give."""
        wanted_bytes = holding.quota.guarantee_bytes - holding.assigned_bytes
        given_bytes = self.spare(holding, wanted_bytes) if wanted_bytes > 0 else 0
        if given_bytes > 0:
            self.give(holding, given_bytes)

    def wait_for_start(
        self,
        holdings: tuple[Holding, ...],
        queued_ns: int,
        deadline_ns: int | None,
        now_ns: int,
        decisions: list[Decision],
    ) -> None:
        """A container starts when it can have its whole guarantee: now or later."""
        gpus = tuple(holding.gpu for holding in holdings)
        since = (queued_ns, self.queue.number())
        place = Place(holdings[0].container, gpus, since, holdings[0].seniority, path=holdings[0].path)
        self.admission.add(PendingStart(holdings, place, deadline_ns))
        self.disturb()
        self.redistribute(now_ns, decisions)

    def give_up_start(self, start: PendingStart, reason: Reason, now_ns: int, decisions: list[Decision]) -> None:
        """A start waits no more, and will not be."""
        self.admission.drop(start)
        decisions.append(NotAdmitted(start.container, reason, max(0, now_ns - start.place.since[0])))

    def yield_to_outside(self, gpu: GpuUuid, among: Iterable[Holding] | None = None) -> None:
        """Memory is gone that was assigned: take back what is not used, until the sums hold and, if it can be, safety.

        What is above a guarantee goes first, then guarantees, each time the latest container's first.

        Args:
            gpu: Of which device.
            among: From whom it may be taken; None: from all on the device.
        """
        holdings = self.ledger.holdings(gpu) if among is None else among
        latest_first = sorted(holdings, key=lambda h: (h.created_ns, h.container), reverse=True)
        for may_cut_guarantee in (False, True):
            for holding in latest_first:
                keep_bytes = holding.used_bytes if may_cut_guarantee else holding.keep_bytes
                cut_bytes = min(holding.assigned_bytes - keep_bytes, self.ledger.short(holding))
                if cut_bytes > 0:
                    self.assign(holding, -cut_bytes)
        if not self.ledger.index.is_safe():
            for holding in latest_first:
                self.assign(holding, -holding.room_bytes)
            self.unsafe_from_outside = not self.ledger.index.is_safe()

    def deny_beyond_limit(self, holding: Holding, now_ns: int, decisions: list[Decision]) -> None:
        """Deny what waits and can never be granted under the limit of now; earlier requests have precedence."""
        kept_bytes = 0
        for waiter in tuple(holding.waiters):
            most_bytes = holding.used_bytes + kept_bytes + waiter.request.size_bytes
            if most_bytes <= holding.most_bytes:
                kept_bytes += waiter.request.size_bytes
            else:
                reason = Reason.LIMIT if most_bytes > holding.quota.limit_bytes else Reason.GROUP_LIMIT
                self.deny_waiter(waiter, reason, now_ns, decisions)

    def deny_waiter(self, waiter: Waiter, reason: Reason, now_ns: int, decisions: list[Decision]) -> None:
        """A request that waits is over."""
        self.drop(waiter, now_ns)
        self.deny(waiter.holding, waiter.request, reason, now_ns, decisions)

    def drop(self, waiter: Waiter, now_ns: int) -> None:
        """A request no longer waits, for whatever reason."""
        self.ledger.note_altered(waiter.holding)
        self.queue.drop(waiter, now_ns)

    def deny(self, holding: Holding, request: Request, reason: Reason, now_ns: int, decisions: list[Decision]) -> None:
        """A request is over, and counted."""
        self.ledger.note_altered(holding)
        holding.denied += 1
        decisions.append(Denied(request, reason, waited_ns(request, now_ns), self.ledger.numbers(holding)))

    def give(self, holding: Holding, size_bytes: int) -> None:
        """Assign something of what is free, ahead of those that have waited longer."""
        devices = [other.gpu for other in self.ledger.of(holding.container)]
        if len(devices) > 1 and any(other.assigned_bytes for other in self.ledger.of(holding.container)):
            devices = [holding.gpu]
        again = holding.takes_again(size_bytes)
        self.assign(holding, size_bytes)
        self.queue.bypass.forget(holding.container)
        # The first that it gets makes it one of those that must be able to finish, on all of its devices.
        for gpu in devices:
            self.queue.bypass.given(
                gpu, holding.container, holding.place, seniority=holding.seniority, again=again, path=holding.path
            )

    def assign(self, holding: Holding, change_bytes: int) -> None:
        """Move bytes from free to assigned, or back if below zero."""
        self.ledger.assign(holding, change_bytes)
        self.queue.touch(holding)

    def hold(self, holding: Holding, process: ProcessKey, change_bytes: int) -> None:
        """A process holds more, or less if below zero."""
        self.ledger.hold(holding, process, change_bytes)
        self.queue.touch(holding)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold. For tests; takes time."""
        self.ledger.check()
        for gpu in self.ledger.gpus:
            self.queue.check(gpu, self.ledger.free(gpu))
            for holding in self.ledger.holdings(gpu):
                if self.ledger.short(holding) > 0 and holding.room_bytes:
                    raise AssertionError(f"{gpu} or a group is short, and {holding} keeps what it does not use")
                if holding.waiters and self.spare(holding, 1):
                    raise AssertionError(f"{holding} waits and could be given more")
        for start in self.admission:
            if any(holding.assigned_bytes for holding in start.holdings):
                raise AssertionError(f"{start.container} waits for its start and holds something")
        if not self.unsafe_from_outside and not self.ledger.index.is_safe():
            raise AssertionError("the state is unsafe by the engine's own doing")

    def _granted(self, holding: Holding, request: Request, now_ns: int, *, resumed: bool = False) -> Granted:
        return Granted(request, waited_ns(request, now_ns), self.ledger.numbers(holding), resumed)

    def _serve_next(self, gpu: GpuUuid, now_ns: int, decisions: list[Decision]) -> bool:
        index, waiting = self.ledger.index, self.queue.waiting(gpu)
        if index.gives_nothing(gpu, waiting):
            return False
        receivers: Collection[ContainerId] | None = None
        for holding in self.queue.ranked(gpu, self.ledger.free(gpu)):
            if self.queue.bypass.is_held_back(holding.container):
                continue
            if receivers is not None and holding.container not in receivers:
                continue
            need_bytes = holding.need_bytes(holding.waiters[0].request.size_bytes)
            to_guarantee_bytes = holding.quota.guarantee_bytes - holding.assigned_bytes
            spare_bytes = self.ledger.spare(holding, max(to_guarantee_bytes, need_bytes))
            if spare_bytes > 0:
                self.give(holding, spare_bytes)
                self.resume(holding, now_ns, decisions)
                return True
            if receivers is None:  # the first in line cannot be served: who can, if anybody?
                receivers = index.receivers(gpu, waiting)
                if not receivers:
                    return False
        return False

    def _admit(self, start: PendingStart, now_ns: int, decisions: list[Decision]) -> bool:
        """Give a start the whole guarantee on all devices, or nothing."""
        given: list[tuple[Holding, int]] = []
        for holding in start.holdings:
            wanted_bytes = holding.quota.guarantee_bytes - holding.assigned_bytes
            if wanted_bytes > self.spare(holding, wanted_bytes):
                for other, size_bytes in given:
                    self.assign(other, -size_bytes)
                return False
            self.assign(holding, wanted_bytes)
            given.append((holding, wanted_bytes))
        for holding, size_bytes in given:
            if size_bytes:
                self.queue.bypass.given(
                    holding.gpu,
                    holding.container,
                    start.place,
                    seniority=holding.seniority,
                    again=False,
                    path=holding.path,
                )
        self.admission.drop(start)
        decisions.append(Admitted(start.container, max(0, now_ns - start.place.since[0])))
        return True

    def _changes(self) -> tuple[int, int]:
        return (self.ledger.index.changes, self.queue.bypass.changes)


def waited_ns(request: Request, now_ns: int) -> int:
    """From the request's arrival to now."""
    return max(0, now_ns - request.arrived_ns)
