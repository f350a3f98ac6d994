# SPDX-License-Identifier: Apache-2.0
"""Limits that cannot be given: larger than the device or a group, or no longer free of deadlock."""

from __future__ import annotations

from convgpu.core.groups import least_limit
from convgpu.core.identity import GpuUuid, GroupName
from convgpu.core.ledger import Holding, Ledger
from convgpu.core.quota import Quota
from convgpu.core.units import format_size
from convgpu.errors import QuotaRefusedError


def refuse_above_capacity(ledger: Ledger, gpu: GpuUuid, quota: Quota) -> None:
    """Refuse a limit that the device can never give.

    Raises:
        QuotaRefusedError: With both numbers.
    """
    capacity_bytes = ledger.capacity(gpu)
    if quota.limit_bytes > capacity_bytes:
        raise QuotaRefusedError(
            f"a limit of {format_size(quota.limit_bytes)} is more than the {format_size(capacity_bytes)} "
            f"that {gpu} has for containers",
            next_step=f"choose a limit of at most {format_size(capacity_bytes)}",
        )


def refuse_above_groups(
    ledger: Ledger, gpu: GpuUuid, quota: Quota, path: tuple[GroupName, ...], old: Quota | None = None
) -> None:
    """Refuse a limit that a group can never give. One that is no higher than before may stay.

    Raises:
        QuotaRefusedError: With both numbers, and the name of the group.
    """
    least = least_limit(ledger.groups.limits, path, gpu)
    if least is None or quota.limit_bytes <= least[0] or (old is not None and quota.limit_bytes <= old.limit_bytes):
        return
    most_bytes, group = least
    raise QuotaRefusedError(
        f"a limit of {format_size(quota.limit_bytes)} is more than the {format_size(most_bytes)} that group {group} "
        f"may have on {gpu}",
        next_step=f"choose a limit of at most {format_size(most_bytes)}, or raise the group's (`convgpu group set`)",
    )


def refuse_unsafe(ledger: Ledger, holding: Holding, quota: Quota) -> None:
    """Refuse a raised limit with which a container that could run to its limit no longer could, if the rule holds.

    Raises:
        QuotaRefusedError: With the largest limit that can be given now.
    """
    if not ledger.holds_rule(holding.gpu):
        return
    available = ledger.index.available_without(holding.container)
    own = ledger.index.stakes[holding.container]
    can_finish = all(not own[gpu].missing or own[gpu].missing <= available[gpu] for gpu in own.keys() & available)
    most_bytes = holding.assigned_bytes + max(0, available[holding.gpu])
    if can_finish and ledger.missing(holding, quota.limit_bytes) > available[holding.gpu]:
        raise QuotaRefusedError(
            f"with a limit of {format_size(quota.limit_bytes)} containers could wait for each other for ever: "
            f"not more than {format_size(most_bytes)} can be brought together for this one",
            next_step=f"choose a limit of at most {most_bytes} bytes, or let another container end or give back "
            "memory first",
        )
