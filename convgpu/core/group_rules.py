# SPDX-License-Identifier: Apache-2.0
"""What applies to groups beside the rules for containers: who waits for a group alone, and what a new limit changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from convgpu.core.groups import GroupLimits
from convgpu.core.identity import GpuUuid, GroupName
from convgpu.errors import QuotaRefusedError

if TYPE_CHECKING:
    from convgpu.core.bypass import Place
    from convgpu.core.decision import Decision
    from convgpu.core.distribution import Distribution
    from convgpu.core.ledger import Ledger


def shuts_in(ledger: Ledger, place: Place, besides: Sequence[GroupName]) -> bool:
    """Whether a group that is none of these keeps a party waiting: what containers of these get, it lacks not."""
    for gpu in place.gpus:
        holding = ledger.find(place.container, gpu)
        if holding is None:
            continue
        if holding.place is place:
            wanted_bytes = holding.need_bytes(holding.waiters[0].request.size_bytes)
        else:
            wanted_bytes = holding.quota.guarantee_bytes - holding.assigned_bytes
        if wanted_bytes > 0 and ledger.index.shut_in(place.container, gpu, wanted_bytes, besides) is not None:
            return True
    return False


def change_limits(rules: Distribution, changes: GroupLimits, now_ns: int, decisions: list[Decision]) -> None:
    """Replace the limits of some groups.

    What is lowered is lowered, as capacity that others take: where that is less than what is assigned, or unsafe, what
    is not used is taken back. What is raised must be safe.

    Raises:
        QuotaRefusedError: It is not. Nothing has changed.
    """
    ledger = rules.ledger
    was_safe = ledger.index.is_safe()
    _replace(ledger, changes)
    for gpu in ledger.gpus:
        members = {holding.container: holding for group in changes for holding in ledger.groups.members(group, gpu)}
        for holding in members.values():
            rules.queue.touch(holding)
            rules.deny_beyond_limit(holding, now_ns, decisions)
        is_short = any(ledger.short(holding) > 0 for holding in members.values())
        if is_short or (was_safe and not ledger.index.is_safe()):
            rules.yield_to_outside(gpu, members.values())
        for holding in members.values():
            rules.give_back_surplus(holding)
    rules.disturb()
    rules.redistribute(now_ns, decisions)


def check_limits(ledger: Ledger, changes: GroupLimits) -> None:
    """Refuse what `change_limits` would refuse; nothing is different afterwards.

    Raises:
        QuotaRefusedError: What is raised is not safe.
    """
    _set(ledger, _replace(ledger, changes))


def _replace(ledger: Ledger, changes: GroupLimits) -> GroupLimits:
    """Replace the limits, and return the old ones; or refuse, and leave all as it was."""
    old = {group: dict(ledger.groups.limits.get(group, {})) for group in changes}
    _set(ledger, {group: _lowered(old[group], limits) for group, limits in changes.items()})
    lowered_safe = ledger.index.is_safe()
    _set(ledger, changes)
    if lowered_safe and not ledger.index.is_safe():
        _set(ledger, old)
        raise QuotaRefusedError(
            f"with these limits of {', '.join(changes)} containers could wait for each other for ever",
            next_step="let a container of the group end or give back memory first, or lower the limits of its members",
        )
    return old


def _set(ledger: Ledger, limits: GroupLimits) -> None:
    for group, own in limits.items():
        ledger.set_group(group, own)


def _lowered(old: Mapping[GpuUuid, int], new: Mapping[GpuUuid, int]) -> dict[GpuUuid, int]:
    """The lower limit of both on each device."""
    return {gpu: min(limits[gpu] for limits in (old, new) if gpu in limits) for gpu in {**old, **new}}
