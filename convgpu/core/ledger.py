# SPDX-License-Identifier: Apache-2.0
"""Who holds what: every byte of every device is free, or assigned to one container, and there used or not.

The ledger keeps sums and the safety index in step; it decides nothing. The engine does.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from convgpu.core.bypass import Place
from convgpu.core.decision import Numbers, Reason
from convgpu.core.group_book import GroupBook
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.core.safety.nested import NestedIndex
from convgpu.core.safety.order import NEVER
from convgpu.core.safety.stakes import Stake, is_safe


@dataclass(frozen=True, slots=True)
class Account:
    """One container on one device, for people and for the log.

    Attributes:
        used_bytes: What its processes hold, credit and calls in flight included.
        waiting: Suspended requests.
        waiting_bytes: Their sum.
        denied: Requests denied since it started.
        suspended_ns: Time that requests spent suspended, summed, those still waiting included.
        over: It holds more than its limit (the limit was lowered, or memory was taken by force) and gets nothing.
    """

    limit_bytes: int
    guarantee_bytes: int
    assigned_bytes: int
    used_bytes: int
    waiting: int
    waiting_bytes: int
    denied: int
    suspended_ns: int
    over: bool


class Carried(NamedTuple):
    """What of a container on a device a restarted daemon cannot know from credit pages and waiting processes.

    Attributes:
        assigned_bytes: What is set aside for it.
        denied: Requests denied since it started.
        suspended_ns: Time that requests spent suspended, summed, without those that still wait: they are made again.
        passed: How often it was passed over since its first waiting request arrived.
    """

    assigned_bytes: int
    denied: int = 0
    suspended_ns: int = 0
    passed: int = 0


@dataclass(slots=True, eq=False)
class Waiter:
    """A suspended request and its place in its container."""

    request: Request
    holding: Holding
    number: int
    deadline_ns: int | None

    @property
    def place(self) -> tuple[int, int]:
        """Order of arrival; requests that arrived at the same time by the order in which the engine saw them."""
        return (self.request.arrived_ns, self.number)


@dataclass(slots=True, eq=False)
class Holding:
    """One container on one device, as the engine works with it.

    Attributes:
        passed_before: How often an earlier daemon saw it passed over, until its requests are made again.
        seniority: Containers are numbered as they start; the lower came first.
        peak_assigned_bytes: The most that was ever assigned to it.
        path: The groups that it is in, the outermost first.
        ceiling_bytes: The lowest limit of these groups here.
    """

    container: ContainerId
    gpu: GpuUuid
    created_ns: int
    priority: int
    quota: Quota
    assigned_bytes: int = 0
    used_bytes: int = 0
    held: dict[ProcessKey, int] = field(default_factory=dict)
    waiters: list[Waiter] = field(default_factory=list)
    waiting_bytes: int = 0
    denied: int = 0
    ended_suspension_ns: int = 0
    place: Place | None = None
    passed_before: int = 0
    seniority: int = 0
    peak_assigned_bytes: int = 0
    path: tuple[GroupName, ...] = ()
    ceiling_bytes: int = NEVER

    @property
    def room_bytes(self) -> int:
        """What is assigned and not used."""
        return self.assigned_bytes - self.used_bytes

    @property
    def keep_bytes(self) -> int:
        """What it keeps assigned when nothing makes it more: what it uses, and its guarantee."""
        return max(self.used_bytes, self.quota.guarantee_bytes)

    @property
    def most_bytes(self) -> int:
        """What it may hold at most: its limit, or that of a group if that is lower."""
        return min(self.quota.limit_bytes, self.ceiling_bytes)

    def fits_limit(self, size_bytes: int) -> bool:
        """Whether so many more bytes stay within the limit. Suspended requests count: they are calls in flight."""
        return self.used_bytes + self.waiting_bytes + size_bytes <= self.most_bytes

    def limit_reason(self, size_bytes: int) -> Reason:
        """By which limit so many more bytes are denied, where they do not fit."""
        is_own = self.used_bytes + self.waiting_bytes + size_bytes > self.quota.limit_bytes
        return Reason.LIMIT if is_own else Reason.GROUP_LIMIT

    def need_bytes(self, size_bytes: int) -> int:
        """What it would have to be assigned more for a request of this size; below zero: it fits with some to spare."""
        return self.used_bytes + size_bytes - self.assigned_bytes

    def carried(self) -> Carried:
        """What must outlive the daemon."""
        passed = self.place.passed if self.place is not None else self.passed_before
        return Carried(self.assigned_bytes, self.denied, self.ended_suspension_ns, passed)

    def takes_again(self, size_bytes: int) -> bool:
        """Whether so much more assigned is what it had before and gave back: no step on its way to its limit."""
        return self.assigned_bytes + size_bytes <= self.peak_assigned_bytes

    def add_waiter(self, waiter: Waiter) -> None:
        """Suspend a request, at its place by arrival."""
        insort(self.waiters, waiter, key=lambda other: other.place)
        self.waiting_bytes += waiter.request.size_bytes

    def drop_waiter(self, waiter: Waiter, now_ns: int) -> None:
        """A request no longer waits, for whatever reason."""
        self.waiters.remove(waiter)
        self.waiting_bytes -= waiter.request.size_bytes
        self.ended_suspension_ns += max(0, now_ns - waiter.request.arrived_ns)

    def account(self, now_ns: int) -> Account:
        """The view of it at this time."""
        return Account(
            limit_bytes=self.quota.limit_bytes,
            guarantee_bytes=self.quota.guarantee_bytes,
            assigned_bytes=self.assigned_bytes,
            used_bytes=self.used_bytes,
            waiting=len(self.waiters),
            waiting_bytes=self.waiting_bytes,
            denied=self.denied,
            suspended_ns=self.ended_suspension_ns
            + sum(max(0, now_ns - waiter.request.arrived_ns) for waiter in self.waiters),
            over=self.used_bytes > self.quota.limit_bytes,
        )


class Ledger:
    """All holdings on all devices.

    Args:
        capacities: What may be assigned, by device.
        safe: The devices under the safety rule; True: all, False: none.

    Attributes:
        groups: The groups that holdings are in.
    """

    def __init__(self, capacities: Mapping[GpuUuid, int], *, safe: bool | Collection[GpuUuid]) -> None:
        self._capacity = dict(capacities)
        self._holdings: dict[GpuUuid, dict[ContainerId, Holding]] = {gpu: {} for gpu in capacities}
        self._altered: dict[Holding, int] = {}
        self._started = 0
        ruled = (capacities if safe else ()) if isinstance(safe, bool) else safe
        self._index = NestedIndex(capacities, ruled)
        self.groups = GroupBook(self._holdings, self._index)

    @property
    def gpus(self) -> KeysView[GpuUuid]:
        """All devices."""
        return self._capacity.keys()

    @property
    def index(self) -> NestedIndex:
        """The stakes of all containers; to be read only."""
        return self._index

    def capacity(self, gpu: GpuUuid) -> int:
        """What may be assigned on the device."""
        return self._capacity[gpu]

    def free(self, gpu: GpuUuid) -> int:
        """Capacity minus all that is assigned; below zero where the outside took what was assigned."""
        return self._index.free[gpu]

    def holdings(self, gpu: GpuUuid) -> Iterable[Holding]:
        """All on this device, in the order in which they were opened."""
        return self._holdings[gpu].values()

    def find(self, container: ContainerId, gpu: GpuUuid) -> Holding | None:
        """The container's holding on the device, if it has one."""
        return self._holdings.get(gpu, {}).get(container)

    def of(self, container: ContainerId) -> Iterator[Holding]:
        """All holdings of the container."""
        for holdings in self._holdings.values():
            if container in holdings:
                yield holdings[container]

    def numbers(self, holding: Holding) -> Numbers:
        """What the engine sees of this holding now."""
        return Numbers(
            limit=holding.quota.limit_bytes,
            guarantee=holding.quota.guarantee_bytes,
            assigned=holding.assigned_bytes,
            used=holding.used_bytes,
            free=self.free(holding.gpu),
            capacity=self._capacity[holding.gpu],
            waiting=holding.waiting_bytes,
        )

    def holds_rule(self, gpu: GpuUuid) -> bool:
        """Whether the safety rule is in force on the device."""
        return gpu in self._index.ruled

    def spare(self, holding: Holding, wanted_bytes: int | None = None) -> int:
        """How much of what is free it may be assigned: within its limit, safe, and not more than is wanted."""
        return self._index.grantable(holding.container, holding.gpu, wanted_bytes)

    def missing(self, holding: Holding, limit_bytes: int) -> int:
        """What it lacks to a limit, or to all that the device or one of its groups may ever give if that is less."""
        return max(0, min(limit_bytes, self._capacity[holding.gpu], holding.ceiling_bytes) - holding.assigned_bytes)

    def short(self, holding: Holding) -> int:
        """How much too much is assigned, on its device or in one of its groups; below zero: so much is free."""
        return -self._index.room(holding.container, holding.gpu)

    def open(
        self,
        container: ContainerId,
        quotas: Mapping[GpuUuid, Quota],
        *,
        created_ns: int,
        priority: int,
        path: tuple[GroupName, ...] = (),
    ) -> list[Holding]:
        """Begin a container; nothing is assigned to it yet."""
        opened = [
            Holding(container, gpu, created_ns, priority, quota, path=path) for gpu, quota in sorted(quotas.items())
        ]
        self._started += 1
        for holding in opened:
            holding.seniority = self._started
            holding.ceiling_bytes = self.groups.ceiling(path, holding.gpu)
            self._holdings[holding.gpu][container] = holding
        self._index.start(container, {h.gpu: self.missing(h, h.quota.limit_bytes) for h in opened}, path)
        return opened

    def close(self, container: ContainerId) -> None:
        """End a container; all that was assigned to it is free."""
        for holding in list(self.of(container)):
            del self._holdings[holding.gpu][container]
            self._altered.pop(holding, None)
        if container in self._index.stakes:
            self._index.remove(container)

    def assign(self, holding: Holding, change_bytes: int) -> None:
        """Move bytes from free to assigned, or back if below zero."""
        self.note_altered(holding)
        holding.assigned_bytes += change_bytes
        holding.peak_assigned_bytes = max(holding.peak_assigned_bytes, holding.assigned_bytes)
        missing_bytes = self.missing(holding, holding.quota.limit_bytes)
        self._index.assign(holding.container, holding.gpu, change_bytes, missing_bytes)

    def hold(self, holding: Holding, process: ProcessKey, size_bytes: int) -> None:
        """A process holds more, or less if below zero."""
        holding.held[process] = holding.held.get(process, 0) + size_bytes
        holding.used_bytes += size_bytes
        if holding.held[process] == 0:
            del holding.held[process]

    def set_quota(self, holding: Holding, quota: Quota) -> None:
        """Replace limit and guarantee."""
        holding.quota = quota
        self._note(holding)

    def set_capacity(self, gpu: GpuUuid, capacity_bytes: int) -> None:
        """Replace the capacity; what is assigned stays."""
        self._index.set_free(gpu, self.free(gpu) + capacity_bytes - self._capacity[gpu])
        self._capacity[gpu] = capacity_bytes
        for holding in self._holdings[gpu].values():
            self._note(holding)

    def set_group(self, group: GroupName, limits: Mapping[GpuUuid, int]) -> None:
        """Replace the limits of a group; what is assigned stays."""
        for holding in self.groups.set_limits(group, limits):
            self._note(holding)

    def note_altered(self, holding: Holding) -> None:
        """Something of it changes that must outlive the daemon; to be called before."""
        self._altered.setdefault(holding, holding.assigned_bytes)

    def take_altered(self) -> dict[Holding, int]:
        """Return those that have changed since the last call, with what was assigned to them before."""
        altered = self._altered
        if altered:
            self._altered = {}
        return altered

    def set_safe(self, gpu: GpuUuid, *, safe: bool) -> None:
        """Heed the safety rule on a device, or no longer."""
        self._index.set_ruled({*self._index.ruled, gpu} if safe else set(self._index.ruled) - {gpu})

    def is_safe(self) -> bool:
        """Whether all containers could reach their limits and end, one after another, on all devices."""
        free, stakes, _ = self._index.columns()
        return is_safe(free, stakes)

    def check(self) -> None:
        """Raise AssertionError if any two figures that must agree do not."""
        for gpu, holdings in self._holdings.items():
            assigned_bytes = 0
            for holding in holdings.values():
                _check_holding(holding)
                stake = Stake(holding.assigned_bytes, self.missing(holding, holding.quota.limit_bytes))
                _require(self._index.stakes[holding.container][gpu] == stake, f"{holding} is not {stake} in the index")
                assigned_bytes += holding.assigned_bytes
            _require(self._capacity[gpu] == self.free(gpu) + assigned_bytes, f"bytes of {gpu} made or lost")
        self.groups.check()
        _require(self._index.is_safe() == is_safe(*self._index.columns()), "the index errs about safety")

    def _note(self, holding: Holding) -> None:
        self._index.set_missing(holding.container, holding.gpu, self.missing(holding, holding.quota.limit_bytes))


def _check_holding(holding: Holding) -> None:
    _require(all(size > 0 for size in holding.held.values()), f"a process holds nothing or less: {holding}")
    _require(sum(holding.held.values()) == holding.used_bytes, f"used is not what the processes hold: {holding}")
    _require(holding.used_bytes <= holding.assigned_bytes, f"used above assigned: {holding}")
    most = max(holding.quota.limit_bytes, holding.used_bytes)
    _require(holding.assigned_bytes <= most, f"assigned above the limit without need: {holding}")
    waiting_bytes = sum(waiter.request.size_bytes for waiter in holding.waiters)
    _require(waiting_bytes == holding.waiting_bytes, f"waiting bytes do not add up: {holding}")
    places = [waiter.place for waiter in holding.waiters]
    _require(places == sorted(places), f"waiting out of order: {holding}")
    if holding.waiters:
        _require(holding.fits_limit(0), f"something waits that the limit can never allow: {holding}")
        _require(
            min(waiter.request.size_bytes for waiter in holding.waiters) > holding.room_bytes,
            f"something waits that fits: {holding}",
        )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
