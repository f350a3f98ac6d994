# SPDX-License-Identifier: Apache-2.0
"""How bytes move between free, assigned and used, and how what is free reaches those who wait.

The rules of the engine, one method each; the engine says which apply to which event, and in which order.
"""

from __future__ import annotations

from collections.abc import Mapping

from convgpu.core.algorithms import Algorithm
from convgpu.core.decision import Decision, Denied, Granted, Reason, Suspended
from convgpu.core.identity import GpuUuid, ProcessKey
from convgpu.core.ledger import Holding, Ledger, Waiter
from convgpu.core.queue import Queue
from convgpu.core.request import Request


class Distribution:
    """Ledger and queue of all devices, and the rules by which they change.

    Args:
        capacities: What may be assigned, by device.
        algorithm: Who is next among those that wait.
        safe: Whether the safety rule is in force.

    Attributes:
        ledger: Who holds what.
        queue: Who waits.
        unsafe_from_outside: The state is unsafe since memory was taken by force or capacity was lost.
    """

    def __init__(self, capacities: Mapping[GpuUuid, int], algorithm: Algorithm, *, safe: bool) -> None:
        self.ledger = Ledger(capacities, safe=safe)
        self.queue = Queue(algorithm)
        self.unsafe_from_outside = False
        self._safe = safe
        self._at_rest_since: int | None = None

    def grant_or_suspend(
        self, holding: Holding, deadline_ns: int | None, request: Request, now_ns: int, decisions: list[Decision]
    ) -> bool:
        """Decide about a request that is within the limit; True: something is to be redistributed."""
        need_bytes = holding.need_bytes(request.size_bytes)
        if need_bytes <= 0 or need_bytes <= self.ledger.spare(holding):
            if need_bytes > 0:
                self.assign(holding, need_bytes)
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
        decisions.append(Suspended(request, need_bytes, position, numbers))
        if self.ledger.spare(holding) > 0:
            self._at_rest_since = None
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
        controlled = need_bytes <= self.ledger.spare(holding)
        if need_bytes > 0:
            self.assign(holding, need_bytes)
        self.hold(holding, process, size_bytes)
        if need_bytes > 0 and not controlled:
            self.yield_to_outside(holding.gpu)

    def redistribute(self, now_ns: int, decisions: list[Decision]) -> None:
        """Give what is free to those that wait, as the algorithm ranks them, until nothing more can be given.

        Then it is at rest: to each of those that wait, nothing can be given. That depends on nothing but the stakes.
        """
        if self._at_rest_since == self.ledger.index.changes:
            return
        if self.unsafe_from_outside:
            self.unsafe_from_outside = not self.ledger.is_safe()
        given = True
        while given:  # what is given on one device can make it safe to give on another
            given = False
            for gpu in self.queue.gpus():
                while self._serve_next(gpu, now_ns, decisions):
                    given = True
        self._at_rest_since = self.ledger.index.changes

    def resume(self, holding: Holding, now_ns: int, decisions: list[Decision]) -> None:
        """Grant what waits and now fits into what is assigned, in order of arrival."""
        for waiter in tuple(holding.waiters) if holding.room_bytes > 0 else ():
            request = waiter.request
            if request.size_bytes <= holding.room_bytes:
                self.queue.drop(waiter, now_ns)
                decisions.append(self._granted(holding, request, now_ns, resumed=True))
                self.hold(holding, request.process, request.size_bytes)

    def give_back_surplus(self, holding: Holding) -> None:
        """What is assigned above use and guarantee returns to what is free; all that is not used, if that is short."""
        surplus_bytes = holding.assigned_bytes - holding.keep_bytes
        short_bytes = -self.ledger.free(holding.gpu)
        if short_bytes > surplus_bytes:
            surplus_bytes = min(short_bytes, holding.room_bytes)
        if surplus_bytes > 0:
            self.assign(holding, -surplus_bytes)
            if short_bytes > 0 and self._safe:
                # It lacks more now, and nobody gained by it: what it gave back was not there any more.
                self.unsafe_from_outside = not self.ledger.is_safe()

    def set_aside_guarantee(self, holding: Holding) -> None:
        """Assign the guarantee, or the part of it that is free and safe to give."""
        wanted_bytes = holding.quota.guarantee_bytes - holding.assigned_bytes
        if wanted_bytes > 0:
            self.assign(holding, min(wanted_bytes, self.ledger.spare(holding)))

    def yield_to_outside(self, gpu: GpuUuid) -> None:
        """Memory is gone that was assigned: take back what is not used, until the sums hold and, if it can be, safety.

        What is above a guarantee goes first, then guarantees, each time the latest container's first.
        """
        latest_first = sorted(self.ledger.holdings(gpu), key=lambda h: (h.created_ns, h.container), reverse=True)
        for may_cut_guarantee in (False, True):
            for holding in latest_first:
                keep_bytes = holding.used_bytes if may_cut_guarantee else holding.keep_bytes
                cut_bytes = min(holding.assigned_bytes - keep_bytes, -self.ledger.free(gpu))
                if cut_bytes > 0:
                    self.assign(holding, -cut_bytes)
        if self._safe and not self.ledger.is_safe():
            for holding in latest_first:
                self.assign(holding, -holding.room_bytes)
            self.unsafe_from_outside = not self.ledger.is_safe()

    def deny_beyond_limit(self, holding: Holding, now_ns: int, decisions: list[Decision]) -> None:
        """Deny what waits and can never be granted under the limit of now; earlier requests have precedence."""
        kept_bytes = 0
        for waiter in tuple(holding.waiters):
            if holding.used_bytes + kept_bytes + waiter.request.size_bytes <= holding.quota.limit_bytes:
                kept_bytes += waiter.request.size_bytes
            else:
                self.deny_waiter(waiter, Reason.LIMIT, now_ns, decisions)

    def deny_waiter(self, waiter: Waiter, reason: Reason, now_ns: int, decisions: list[Decision]) -> None:
        """A request that waits is over."""
        self.queue.drop(waiter, now_ns)
        self.deny(waiter.holding, waiter.request, reason, now_ns, decisions)

    def deny(self, holding: Holding, request: Request, reason: Reason, now_ns: int, decisions: list[Decision]) -> None:
        """A request is over, and counted."""
        holding.denied += 1
        decisions.append(Denied(request, reason, waited_ns(request, now_ns), self.ledger.numbers(holding)))

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
            for holding in self.ledger.holdings(gpu):
                if self.ledger.free(gpu) < 0 and holding.room_bytes:
                    raise AssertionError(f"{gpu} is short, and {holding} keeps what it does not use")
                if holding.waiters and self.ledger.spare(holding):
                    raise AssertionError(f"{holding} waits and could be given more")
        if self._safe and not self.unsafe_from_outside and not self.ledger.is_safe():
            raise AssertionError("the state is unsafe by the engine's own doing")

    def _granted(self, holding: Holding, request: Request, now_ns: int, *, resumed: bool = False) -> Granted:
        return Granted(request, waited_ns(request, now_ns), self.ledger.numbers(holding), resumed)

    def _serve_next(self, gpu: GpuUuid, now_ns: int, decisions: list[Decision]) -> bool:
        free_bytes = self.ledger.free(gpu)
        if free_bytes <= 0:
            return False
        for holding in self.queue.ranked(gpu, free_bytes):
            spare_bytes = self.ledger.spare(holding)
            if spare_bytes > 0:
                need_bytes = holding.need_bytes(holding.waiters[0].request.size_bytes)
                to_guarantee_bytes = holding.quota.guarantee_bytes - holding.assigned_bytes
                self.assign(holding, min(max(to_guarantee_bytes, need_bytes), spare_bytes))
                self.resume(holding, now_ns, decisions)
                return True
        return False


def waited_ns(request: Request, now_ns: int) -> int:
    """From the request's arrival to now."""
    return max(0, now_ns - request.arrived_ns)
