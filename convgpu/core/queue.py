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

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from convgpu.core.algorithms import Algorithm, Candidate
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
    """

    request: Request
    position: int
    need_bytes: int
    deadline_ns: int | None


class Queue:
    """All suspended requests of all devices.

    Args:
        algorithm: Ranks the containers that wait.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._waiters: dict[int | str, Waiter] = {}
        self._waiting: dict[GpuUuid, dict[ContainerId, Holding]] = {}
        self._candidates: dict[GpuUuid, dict[ContainerId, Candidate]] = {}
        self._changed: dict[GpuUuid, dict[ContainerId, Holding]] = {}
        self._deadlines: list[tuple[int, int, Waiter]] = []
        self._numbers = count(1)

    def __contains__(self, request_id: int | str) -> bool:
        return request_id in self._waiters

    def add(self, holding: Holding, request: Request, deadline_ns: int | None) -> Waiter:
        """Suspend a request."""
        waiter = Waiter(request, holding, next(self._numbers), deadline_ns)
        self._waiters[request.request_id] = waiter
        self._waiting.setdefault(holding.gpu, {})[holding.container] = holding
        holding.add_waiter(waiter)
        self.touch(holding)
        if deadline_ns is not None:
            heappush(self._deadlines, (deadline_ns, waiter.number, waiter))
        return waiter

    def drop(self, waiter: Waiter, now_ns: int) -> None:
        """A request no longer waits, for whatever reason."""
        holding = waiter.holding
        del self._waiters[waiter.request.request_id]
        holding.drop_waiter(waiter, now_ns)
        if not holding.waiters:
            del self._waiting[holding.gpu][holding.container]
        self.touch(holding)

    def touch(self, holding: Holding) -> None:
        """A holding has changed, so its candidate must be made anew before it is ranked."""
        self._changed.setdefault(holding.gpu, {})[holding.container] = holding

    def find(self, request_id: int | str) -> Waiter | None:
        """The suspended request of this id."""
        return self._waiters.get(request_id)

    def gpus(self) -> list[GpuUuid]:
        """Devices on which somebody waits, in a fixed order."""
        return sorted(gpu for gpu, waiting in self._waiting.items() if waiting)

    def ranked(self, gpu: GpuUuid, free_bytes: int) -> Iterator[Holding]:
        """The containers that wait on a device, the next one first."""
        waiting = self._waiting.get(gpu, {})
        candidates = self._candidates.setdefault(gpu, {})
        for container, holding in self._changed.pop(gpu, {}).items():
            if waiting.get(container) is holding:
                candidates[container] = _candidate(holding)
            else:
                candidates.pop(container, None)
        for candidate in self._algorithm.order(tuple(candidates.values()), free_bytes):
            yield waiting[candidate.container]

    def position(self, waiter: Waiter, free_bytes: int) -> int:
        """The place of one request among all that wait on its device, from 1."""
        before = 0
        for holding in self.ranked(waiter.holding.gpu, free_bytes):
            if holding is waiter.holding:
                break
            before += len(holding.waiters)
        return before + waiter.holding.waiters.index(waiter) + 1

    def entries(self, gpu: GpuUuid, free_bytes: int) -> Iterator[QueueEntry]:
        """All that wait on a device, the next one first."""
        waiters = (waiter for holding in self.ranked(gpu, free_bytes) for waiter in holding.waiters)
        for position, waiter in enumerate(waiters, start=1):
            need_bytes = waiter.holding.need_bytes(waiter.request.size_bytes)
            yield QueueEntry(waiter.request, position, need_bytes, waiter.deadline_ns)

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
    )
