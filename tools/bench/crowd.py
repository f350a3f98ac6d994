# SPDX-License-Identifier: Apache-2.0
"""An engine with many containers that wait, and the events that happen to it, each timed by itself.

The crowd is kept as it is: what ends is replaced, and after every event as many requests are made as are missing to
the promised number that wait. Those are requests like others, and timed with them.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from time import thread_time_ns
from typing import Final, NamedTuple

from convgpu.core.algorithms import load_algorithm
from convgpu.core.decision import Decision, Denied, Granted, Suspended
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.core.units import GIB, MIB
from convgpu.errors import QuotaRefusedError

WAITING_EACH: Final = 10
"""Requests that wait, for each container, on average."""

ALIKE: Final = "alike"
MIXED: Final = "mixed"

_ALIKE_BYTES: Final = 4 * GIB
_SMALLEST_BYTES: Final = 512 * MIB
_LARGE_BYTES: Final = 16 * GIB
_GIANTS: Final = 0.02
_GIANT_SHARES: Final = (0.2, 0.9)
_SUPPLY: Final = {ALIKE: 0.5, MIXED: 0.3}
"""Capacity, as a share of the sum of all limits: so little that most wait."""
_GROUPS_SHARE: Final = 0.9
"""Of a device, what its groups may have together: so that they are full before it is."""
_PATIENCE: Final = 100


class Shape(NamedTuple):
    """What a crowd consists of.

    Attributes:
        containers: How many live at a time.
        spans: On how many devices each of them has a limit.
        devices: How many devices there are.
        algorithm: Who is next.
        kind: `alike`: the same limit everywhere, a quarter guaranteed, everybody waits. `mixed`: limits from 512 MiB to
            16 GiB, one in fifty from a fifth of a device to nearly all of it; guarantees of nothing, a quarter or half;
            and half of the containers hold memory and ask for nothing, so that the others wait twice as much.
        groups: Over how many groups the containers are spread. Their limits are such that mostly a group is full before
            a device is.
    """

    containers: int
    spans: int
    devices: int
    algorithm: str
    kind: str
    groups: int = 0

    @property
    def where(self) -> str:
        """Devices of each container, of how many."""
        return f"{self.spans} of {self.devices}"


class Sample(NamedTuple):
    """One event.

    Attributes:
        took_ns: How long the engine took, in processor time: it waits for nothing, so on a processor of its own that is
            the time that passes, and what else the machine does at the time is not counted.
        decisions: How many decisions it took: answers to requests, and parts of what they need set aside for those that
            go on waiting. An event that leaves all as it is, is one.
        answers: The answers alone, at least one.
    """

    took_ns: int
    decisions: int
    answers: int


@dataclass(slots=True)
class _Resident:
    name: ContainerId
    quotas: dict[GpuUuid, Quota]
    processes: list[ProcessKey]
    asks: bool


class Crowd:
    """A crowd of a shape, and its life.

    Args:
        shape: What it consists of.
        seed: Of all that is left to chance here; the engine gets it too.

    Attributes:
        samples: What was timed, by kind of event.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self._rng = random.Random(seed)
        self._gpus = [GpuUuid(f"GPU-{number}") for number in range(shape.devices)]
        plans = [self._plan() for _ in range(shape.containers)]
        self._capacity = {gpu: self._enough_for(plans, gpu) for gpu in self._gpus}
        self._group_limits = {gpu: self._share_of_group(size) for gpu, size in self._capacity.items()}
        groups = {GroupName(f"g{number}"): self._group_limits for number in range(shape.groups)}
        self.engine = Engine(self._capacity, load_algorithm(shape.algorithm), seed=seed, groups=groups)
        self._residents: list[_Resident] = []
        self._waiting: dict[int | str, Request] = {}
        self._assigned: dict[tuple[ContainerId, GpuUuid], int] = {}
        self._now_ns = 0
        self._numbers = 0
        for plan in plans:
            self._move_in(self._perhaps_giant(plan))
        self._use_up()
        self._keep_waiting()

    @property
    def waiting_containers(self) -> int:
        """Containers that wait now."""
        return len({request.container for request in self._waiting.values()})

    def check(self) -> None:
        """Raise AssertionError if the crowd is not what it should be: the figures would mean nothing."""
        queued = sum(len(self.engine.queue(gpu)) for gpu in self._gpus)
        promised = WAITING_EACH * self.shape.containers
        assert queued == len(self._waiting), f"{queued} wait in the engine, {len(self._waiting)} by its decisions"
        assert promised <= queued <= promised * 1.05 + 2, f"{queued} wait instead of {promised}"
        assert self.waiting_containers >= self.shape.containers // 5, "all that waits is of a few containers"
        assert len(self._residents) == self.shape.containers
        assert self.engine.is_safe()

    def live(self, events: int) -> None:
        """Let so many events happen, and after each the requests that keep the number of waiting ones."""
        happenings: dict[Callable[[], None], int] = {
            self._ask: 35,
            self._release: 40,
            self._end_process: 8,
            self._change_limit: 7,
            self._replace_container: 10,
        }
        for happening in self._rng.choices(list(happenings), list(happenings.values()), k=events):
            happening()
            self._keep_waiting()

    # What happens.

    def _ask(self) -> None:
        resident = self._rng.choice(self._residents)
        self._request(resident, self._some_gpu(resident))

    def _release(self) -> None:
        held = 0
        while not held:  # some hold nothing yet
            resident = self._rng.choice(self._residents)
            process, gpu = self._rng.choice(resident.processes), self._some_gpu(resident)
            held = self.engine.held(process, gpu)
        size = min(held, 2 * self._size(resident, gpu))
        self._timed("release", lambda: self.engine.release(process, gpu, size, self._tick()))

    def _end_process(self) -> None:
        resident = self._rng.choice(self._residents)
        process = resident.processes.pop(0)
        for request in [request for request in self._waiting.values() if request.process == process]:
            del self._waiting[request.request_id]
        self._timed("process ends", lambda: self.engine.end_process(process, resident.name, self._tick()))
        self._start_process(resident)

    def _change_limit(self) -> None:
        resident = self._rng.choice(self._residents)
        gpu = self._some_gpu(resident)
        old = resident.quotas[gpu]
        most = int(self._capacity[gpu] * _GIANT_SHARES[1])
        limit = min(max(int(old.limit_bytes * self._rng.uniform(0.8, 1.25)), _SMALLEST_BYTES), most)
        quota = Quota(limit, min(limit, old.guarantee_bytes))
        kind = "limit raised" if limit > old.limit_bytes else "limit lowered"
        if self._timed(kind, lambda: self.engine.set_quota(resident.name, gpu, quota, self._tick())):
            resident.quotas[gpu] = quota

    def _replace_container(self) -> None:
        gone = self._residents.pop(self._rng.randrange(len(self._residents)))
        self._timed("container ends", lambda: self.engine.end_container(gone.name, self._tick()))
        self._move_in(self._perhaps_giant(self._plan()))

    # How.

    def _timed(self, kind: str, event: Callable[[], list[Decision]]) -> bool:
        """Time an event; False: it was refused."""
        before = thread_time_ns()
        try:
            decisions = event()
        except QuotaRefusedError:
            self.samples["limit refused"].append(Sample(thread_time_ns() - before, 1, 1))
            return False
        self._sample(kind, thread_time_ns() - before, decisions)
        self._note(decisions)
        return True

    def _request(self, resident: _Resident, gpu: GpuUuid, size: int | None = None) -> bool:
        """Time a request; True: it waits."""
        size = size or self._size(resident, gpu)
        process, now_ns = self._rng.choice(resident.processes), self._tick()
        request = Request(self._number(), process, resident.name, gpu, size, True, False, now_ns, "cuMemAlloc_v2")
        fits = size <= self.engine.headroom(resident.name, gpu)
        before = thread_time_ns()
        decisions = self.engine.request(request, now_ns)
        took_ns = thread_time_ns() - before
        self._note(decisions)
        if isinstance(decisions[0], Granted):
            kind = "request that fits" if fits else "request from what is free"
        else:
            kind = "request suspended" if isinstance(decisions[0], Suspended) else "request denied"
        self._sample(kind, took_ns, decisions)
        return isinstance(decisions[0], Suspended)

    def _sample(self, kind: str, took_ns: int, decisions: list[Decision]) -> None:
        answered = {(each.request.container, each.request.gpu) for each in decisions if isinstance(each, Granted)}
        parts = 0
        for container, gpu, carried in self.engine.take_altered():
            grew = carried.assigned_bytes > self._assigned.get((container, gpu), 0)
            self._assigned[container, gpu] = carried.assigned_bytes
            parts += grew and (container, gpu) not in answered
        self.samples[kind].append(Sample(took_ns, max(1, len(decisions) + parts), max(1, len(decisions))))

    def _note(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Suspended):
                self._waiting[decision.request.request_id] = decision.request
            elif isinstance(decision, Granted | Denied):
                self._waiting.pop(decision.request.request_id, None)

    def _use_up(self) -> None:
        """Have memory used: by large requests, so that it does not take long."""
        for resident in self._residents:
            for gpu, quota in resident.quotas.items():
                if resident.asks:
                    while self.engine.account(resident.name, gpu, 0).used_bytes < quota.limit_bytes // 2 and (
                        not self._request(resident, gpu, quota.limit_bytes // 8)
                    ):
                        pass
                elif self.engine.headroom(resident.name, gpu):
                    self._request(resident, gpu, (self.engine.headroom(resident.name, gpu) + 1) // 2)

    def _keep_waiting(self) -> None:
        """Have as many requests wait as the crowd promises."""
        vain = 0
        while len(self._waiting) < WAITING_EACH * self.shape.containers:
            resident = self._rng.choice(self._residents)
            if not resident.asks or not self._request(resident, self._some_gpu(resident)):
                vain += 1
                assert vain < _PATIENCE * self.shape.containers, "too much is free: too few can be made to wait"

    def _move_in(self, quotas: dict[GpuUuid, Quota]) -> None:
        number = self._number()
        name = ContainerId(f"{number:064x}")
        priority = self._rng.randrange(4)
        group = GroupName(f"g{self._rng.randrange(self.shape.groups)}") if self.shape.groups else None
        self._timed(
            "container starts",
            lambda: self.engine.start_container(name, self._tick(), quotas, priority=priority, group=group),
        )
        asks = self.shape.kind == ALIKE or self._rng.random() < 0.5
        resident = _Resident(name, quotas, [], asks)
        for _ in range(2):
            self._start_process(resident)
        self._residents.append(resident)

    def _start_process(self, resident: _Resident) -> None:
        process = ProcessKey(self._number(), 1)
        self.engine.start_process(process, resident.name)
        resident.processes.append(process)

    def _plan(self) -> dict[GpuUuid, Quota]:
        return {gpu: self._quota() for gpu in self._rng.sample(self._gpus, self.shape.spans)}

    def _quota(self) -> Quota:
        if self.shape.kind == ALIKE:
            return Quota(_ALIKE_BYTES, _ALIKE_BYTES // 4)
        limit = int(math.exp(self._rng.uniform(math.log(_SMALLEST_BYTES), math.log(_LARGE_BYTES))))
        return Quota(limit, self._rng.choice((0, limit // 4, limit // 2)))

    def _perhaps_giant(self, plan: dict[GpuUuid, Quota]) -> dict[GpuUuid, Quota]:
        if self.shape.kind == ALIKE or self._rng.random() >= _GIANTS:
            return plan
        sizes = {gpu: int(self._capacity[gpu] * self._rng.uniform(*_GIANT_SHARES)) for gpu in plan}
        return {gpu: Quota(min(size, self._group_limits[gpu]), 0) for gpu, size in sizes.items()}

    def _share_of_group(self, capacity: int) -> int:
        """The limit of each group on a device; without groups, all of it."""
        if not self.shape.groups:
            return capacity
        return max(int(capacity * _GROUPS_SHARE / self.shape.groups), self._largest())

    def _enough_for(self, plans: list[dict[GpuUuid, Quota]], gpu: GpuUuid) -> int:
        limits = [plan[gpu].limit_bytes for plan in plans if gpu in plan]
        return max(int(sum(limits) * _SUPPLY[self.shape.kind]), self._largest())

    def _largest(self) -> int:
        return _ALIKE_BYTES if self.shape.kind == ALIKE else _LARGE_BYTES

    def _some_gpu(self, resident: _Resident) -> GpuUuid:
        return self._rng.choice(list(resident.quotas))

    def _size(self, resident: _Resident, gpu: GpuUuid) -> int:
        """What it asks for at a time: so little that many such requests fit into the limit."""
        return max(1, resident.quotas[gpu].limit_bytes // self._rng.randint(60, 180))

    def _tick(self) -> int:
        self._now_ns += 1
        return self._now_ns

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers
