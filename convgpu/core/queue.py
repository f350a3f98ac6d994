# SPDX-License-Identifier: Apache-2.0
"""Who waits: all suspended requests, by id, by deadline, and by the order in which the algorithm would serve them.

Containers are ranked by the algorithm. Within a container, requests have the order of their arrival, and a request
that fits into what is assigned goes on at once, also past an earlier and larger one that does not. A program's threads
depend on each other: the one that waits for 4 GiB may need what another can only finish with 2 MiB more. Nobody is
overtaken for ever by this: suspended requests count against the limit as if they were granted already (as they would
be on a device of the container's own), so the later ones only ever take what the limit has beside the earlier one, and
at the latest when the container is assigned all of its limit, every one of its requests fits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, KeysView
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

from convgpu.core.algorithms import Algorithm, Candidate, Situation
from convgpu.core.bypass import Bypass, Place
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.ledger import Holding, Waiter
from convgpu.core.request import Request


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One suspended request in the queue of its device.

    Attributes:
        position: From 1, in the order in which they would be served.
        need_bytes: What its container would have to be assigned more for it to fit.
        deadline_ns: When it is denied if it still waits; None: never.
        passed: How often its container was passed over since its first waiting request arrived.
        overdue: Its container is at the head of the line, whatever the algorithm says.
        reason: What gives it its place, in a few words.
    """

    request: Request
    position: int
    need_bytes: int
    deadline_ns: int | None
    passed: int
    overdue: bool
    reason: str


class Queue:
    """All suspended requests of all devices.

    Args:
        algorithm: Ranks the containers that wait.
        max_bypass: How often one may be passed over before it is next, whatever the algorithm says; 0: without bound.
        seed: For algorithms that leave something to chance.

    Attributes:
        bypass: Who was passed over.
    """

    def __init__(self, algorithm: Algorithm, *, max_bypass: int, seed: int) -> None:
        self.bypass = Bypass(max_bypass)
        self._algorithm = algorithm
        self._seed = seed
        self._waiters: dict[int | str, Waiter] = {}
        self._waiting: dict[GpuUuid, dict[ContainerId, Holding]] = {}
        self._lines: dict[GpuUuid, _Line] = {}
        self._changed: dict[GpuUuid, dict[ContainerId, Holding]] = {}
        self._deadlines: list[tuple[int, int, Waiter]] = []
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, request_id: int | str) -> bool:
        return request_id in self._waiters

    def number(self) -> int:
        """Return the next number: it tells apart what arrived at the same time."""
        return next(self._numbers)

    def set_algorithm(self, algorithm: Algorithm) -> None:
        """Rank by another algorithm from now on."""
        self._algorithm = algorithm
        self._lines.clear()
        self._changed = {gpu: dict(waiting) for gpu, waiting in self._waiting.items()}

    def add(self, holding: Holding, request: Request, deadline_ns: int | None) -> Waiter:
        """Suspend a request."""
        waiter = Waiter(request, holding, self.number(), deadline_ns)
        self._waiters[request.request_id] = waiter
        self._waiting.setdefault(holding.gpu, {})[holding.container] = holding
        holding.add_waiter(waiter)
        if holding.waiters[0] is waiter:
            self._take_place(holding, holding.place.passed if holding.place else holding.passed_before)
            holding.passed_before = 0
        self.touch(holding)
        if deadline_ns is not None:
            heappush(self._deadlines, (deadline_ns, waiter.number, waiter))
        return waiter

    def drop(self, waiter: Waiter, now_ns: int) -> None:
        """A request no longer waits, for whatever reason."""
        holding = waiter.holding
        was_first = holding.waiters[0] is waiter
        del self._waiters[waiter.request.request_id]
        holding.drop_waiter(waiter, now_ns)
        if was_first:
            self._take_place(holding, passed=0)
        if not holding.waiters:
            here = self._waiting[holding.gpu]
            del here[holding.container]
            if not here:
                del self._waiting[holding.gpu]
        self.touch(holding)

    def _take_place(self, holding: Holding, passed: int) -> None:
        """A container waits since its first request does."""
        if holding.place is not None:
            self.bypass.end(holding.place)
            holding.place = None
        if holding.waiters:
            since = holding.waiters[0].place
            holding.place = Place(
                holding.container, (holding.gpu,), since, holding.seniority, passed, path=holding.path
            )
            self.bypass.begin(holding.place)

    def touch(self, holding: Holding) -> None:
        """A holding has changed, so its candidate must be made anew before it is ranked."""
        self._changed.setdefault(holding.gpu, {})[holding.container] = holding

    def find(self, request_id: int | str) -> Waiter | None:
        """The suspended request of this id."""
        return self._waiters.get(request_id)

    def gpus(self) -> list[GpuUuid]:
        """Devices on which somebody waits, in a fixed order."""
        return sorted(self._waiting) if self._waiting else []

    def waiting(self, gpu: GpuUuid) -> KeysView[ContainerId]:
        """The containers that wait on a device, in no order."""
        return self._waiting.get(gpu, {}).keys()

    def ranked(self, gpu: GpuUuid, free_bytes: int) -> Iterator[Holding]:
        """The containers that wait on a device, the next one first."""
        waiting = self._waiting.get(gpu, {})
        order = (waiting[candidate.container] for candidate in self._ordered(gpu, free_bytes))
        overdue = self._overdue(gpu)
        return _with_overdue(order, overdue) if overdue else order

    def position(self, waiter: Waiter, free_bytes: int) -> int:
        """The place of one request among all that wait on its device, from 1."""
        gpu = waiter.holding.gpu
        ordered = self._ordered(gpu, free_bytes)
        line = self._lines[gpu]
        if ordered is line.candidates and not self._overdue(gpu):
            before = line.waiters_before(waiter.holding.container)
        else:
            before = 0
            for holding in self.ranked(gpu, free_bytes):
                if holding is waiter.holding:
                    break
                before += len(holding.waiters)
        return before + waiter.holding.waiters.index(waiter) + 1

    def _ordered(self, gpu: GpuUuid, free_bytes: int) -> Iterable[Candidate]:
        """As the algorithm ranks them; the sorted line itself where it leaves that as it is."""
        line = self._lines.setdefault(gpu, _Line(self._algorithm))
        waiting = self._waiting.get(gpu, {})
        for container, holding in self._changed.pop(gpu, {}).items():
            if waiting.get(container) is holding:
                line.put(_candidate(holding), len(holding.waiters))
            else:
                line.discard(container)
        return self._algorithm.order(line.candidates, Situation(gpu, free_bytes, self.bypass.turn(gpu), self._seed))

    def _overdue(self, gpu: GpuUuid) -> list[Holding]:
        """The containers that are overdue and wait for memory, the one that started first first."""
        waiting = self._waiting.get(gpu, {})
        return [waiting[place.container] for place in self.bypass.overdue(gpu) if place.container in waiting]

    def entries(self, gpu: GpuUuid, free_bytes: int) -> Iterator[QueueEntry]:
        """All that wait on a device, the next one first."""
        waiters = (waiter for holding in self.ranked(gpu, free_bytes) for waiter in holding.waiters)
        for position, waiter in enumerate(waiters, start=1):
            need_bytes = waiter.holding.need_bytes(waiter.request.size_bytes)
            place = waiter.holding.place
            assert place is not None  # noqa: S101  # every container with a waiter has one
            overdue = self.bypass.is_overdue(place)
            if waiter is not waiter.holding.waiters[0]:
                reason = "after an earlier request of its container"
            elif overdue:
                reason = f"passed over {place.passed} times: before all that came later, whatever the algorithm says"
            else:
                reason = self._algorithm.reason(_candidate(waiter.holding))
            yield QueueEntry(waiter.request, position, need_bytes, waiter.deadline_ns, place.passed, overdue, reason)

    def check(self, gpu: GpuUuid, free_bytes: int) -> None:
        """Raise AssertionError if a place by counting is not the place by walking the line. For tests; takes time."""
        waiters = [waiter for holding in self.ranked(gpu, free_bytes) for waiter in holding.waiters]
        if [self.position(waiter, free_bytes) for waiter in waiters] != list(range(1, len(waiters) + 1)):
            raise AssertionError(f"places on {gpu} are not counted as they are ranked")

    def next_deadline_ns(self) -> int | None:
        """The earliest deadline of those that wait."""
        while self._deadlines:
            deadline_ns, _, waiter = self._deadlines[0]
            if self._waiters.get(waiter.request.request_id) is waiter:
                return deadline_ns
            heappop(self._deadlines)
        return None

    def expired(self, now_ns: int) -> Iterator[Waiter]:
        """Those whose deadline has come, the earliest first; each must be dropped before the next is asked for."""
        while (deadline_ns := self.next_deadline_ns()) is not None and deadline_ns <= now_ns:
            yield self._deadlines[0][2]


def _with_overdue(order: Iterator[Holding], overdue: list[Holding]) -> Iterator[Holding]:
    """Let each of the overdue, of which the one that started first comes first, go before all that could pass it over.

    That is, before those that started later, and those that take again what they had before.
    """
    shown: set[ContainerId] = set()
    ahead = iter(overdue)
    first = next(ahead, None)
    late = {holding.container for holding in overdue}
    for holding in order:
        if first is not None and holding.container not in late:
            again = holding.takes_again(holding.need_bytes(holding.waiters[0].request.size_bytes))
            while first is not None and (again or first.seniority < holding.seniority):
                if first.container not in shown:
                    shown.add(first.container)
                    yield first
                first = next(ahead, None)
        if holding.container not in shown:
            shown.add(holding.container)
            yield holding


class _Line:
    """The candidates of one device, sorted by the algorithm's key, then by creation, then by id.

    Attributes:
        candidates: In this order.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.candidates: list[Candidate] = []
        self._waiters: list[int] = []  # of each candidate
        self._algorithm = algorithm
        self._keys: list[tuple[Any, int, ContainerId]] = []
        self._key_of: dict[ContainerId, tuple[Any, int, ContainerId]] = {}

    def put(self, candidate: Candidate, waiters: int) -> None:
        """Take in a candidate with so many requests that wait, in place of an older one of the same container."""
        self.discard(candidate.container)
        key = (self._algorithm.key(candidate), candidate.created_ns, candidate.container)
        place = bisect_left(self._keys, key)
        self._keys.insert(place, key)
        self.candidates.insert(place, candidate)
        self._waiters.insert(place, waiters)
        self._key_of[candidate.container] = key

    def waiters_before(self, container: ContainerId) -> int:
        """How many requests wait in the containers before this one."""
        return sum(self._waiters[: bisect_left(self._keys, self._key_of[container])])

    def discard(self, container: ContainerId) -> None:
        """Take out a container, if it is there."""
        key = self._key_of.pop(container, None)
        if key is not None:
            place = bisect_left(self._keys, key)
            del self._keys[place], self.candidates[place], self._waiters[place]


def _candidate(holding: Holding) -> Candidate:
    first = holding.waiters[0].request
    return Candidate(
        container=holding.container,
        created_ns=holding.created_ns,
        priority=holding.priority,
        need_bytes=holding.need_bytes(first.size_bytes),
        suspended_since_ns=first.arrived_ns,
        limit_bytes=holding.quota.limit_bytes,
        assigned_bytes=holding.assigned_bytes,
        idle_bytes=holding.room_bytes,
    )
