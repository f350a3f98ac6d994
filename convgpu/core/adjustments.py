# SPDX-License-Identifier: Apache-2.0
"""The side of the engine that is turned by people and by the outside: limits, capacities, rules. Each is an event."""

from __future__ import annotations

from convgpu.core.algorithms import Algorithm
from convgpu.core.decision import Decision
from convgpu.core.distribution import Distribution
from convgpu.core.group_rules import change_limits, check_limits
from convgpu.core.groups import GroupLimits
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.questions import Questions
from convgpu.core.queue import Queue
from convgpu.core.quota import Quota
from convgpu.core.refusal import refuse_above_capacity, refuse_above_groups, refuse_unsafe
from convgpu.errors import UsageError


class Adjustments(Questions):
    """What may change while containers run."""

    def __init__(self, rules: Distribution, queue: Queue) -> None:
        super().__init__(rules.ledger, queue, rules.admission)
        self._rules = rules

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
        refuse_above_capacity(self._ledger, gpu, quota)
        refuse_above_groups(self._ledger, gpu, quota, holding.path, old)
        if quota.limit_bytes > old.limit_bytes:
            refuse_unsafe(self._ledger, holding, quota)
        decisions: list[Decision] = []
        self._ledger.set_quota(holding, quota)
        self._queue.touch(holding)
        self._rules.deny_beyond_limit(holding, now_ns, decisions)
        if quota.limit_bytes < old.limit_bytes or quota.guarantee_bytes < old.guarantee_bytes:
            self._rules.give_back_surplus(holding)
        self._rules.disturb()
        if quota.guarantee_bytes > old.guarantee_bytes and self._admission.find(container) is None:
            self._rules.set_aside_guarantee(holding)
            self._rules.resume(holding, now_ns, decisions)
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def set_group_limits(self, changes: GroupLimits, now_ns: int) -> list[Decision]:
        """Replace the limits of some groups, of each on all devices; a device that is not named has none then.

        Lowered below what its containers hold, nothing is taken away: the group is over, and they get nothing until it
        is under. Waiting requests that alone are more than a limit are denied.

        Raises:
            QuotaRefusedError: With what is raised, containers could block each other. Nothing has changed.
            UsageError: No such device.
        """
        for gpu in {gpu for limits in changes.values() for gpu in limits}:
            self._require_device(gpu)
        decisions: list[Decision] = []
        change_limits(self._rules, changes, now_ns, decisions)
        return decisions

    def check_group_limits(self, changes: GroupLimits) -> None:
        """Refuse what `set_group_limits` would refuse; changes nothing.

        Raises:
            QuotaRefusedError: With what is raised, containers could block each other.
        """
        check_limits(self._ledger, changes)

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

    def set_algorithm(self, algorithm: Algorithm, now_ns: int) -> list[Decision]:
        """Rank those that wait by another algorithm from now on."""
        self._queue.set_algorithm(algorithm)
        decisions: list[Decision] = []
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def set_max_bypass(self, max_bypass: int, now_ns: int) -> list[Decision]:
        """Replace the bound on how often a waiter may be passed over; the counts so far stay."""
        self._queue.bypass.set_max_bypass(max_bypass)
        decisions: list[Decision] = []
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def set_safe(self, gpu: GpuUuid, safe: bool, now_ns: int) -> list[Decision]:
        """Heed the safety rule on a device from now on, or no longer.

        Raises:
            UsageError: No such device.
        """
        self._require_device(gpu)
        self._rules.set_safe(gpu, safe=safe)
        decisions: list[Decision] = []
        self._rules.redistribute(now_ns, decisions)
        return decisions

    def _require_device(self, gpu: GpuUuid) -> None:
        if gpu not in self._ledger.gpus:
            raise UsageError(f"there is no device {gpu}")
