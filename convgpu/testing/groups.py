# SPDX-License-Identifier: Apache-2.0
"""Groups of a snapshot, set and removed as the daemon would; what follows for those that wait is not here."""

from __future__ import annotations

from dataclasses import replace

from convgpu.api import GroupArguments, GroupChange, GroupDeviceChange, GroupSetArguments
from convgpu.core.groups import parse_group
from convgpu.core.status import GroupStatus, GroupUsage, Snapshot
from convgpu.errors import ConvgpuError, UsageError


def group_of(snapshot: Snapshot, group: str) -> GroupStatus:
    """Return one group.

    Raises:
        UsageError: There is none of that name.
    """
    found = next((each for each in snapshot.groups if each.name == group), None)
    if found is None:
        raise UsageError(f"there is no group {group}", next_step="see `convgpu group ls`")
    return found


def set_group(snapshot: Snapshot, asked: GroupSetArguments) -> tuple[Snapshot, GroupChange]:
    """Return the snapshot with another limit, and what that changed.

    Raises:
        UsageError: It is no name of a group, or there is no such device.
    """
    return _change(snapshot, parse_group(asked.group), asked.gpu, asked.limit_bytes, "command")


def remove_group(snapshot: Snapshot, asked: GroupArguments) -> tuple[Snapshot, GroupChange]:
    """Return the snapshot without the limit that was set by command; there is no configuration here to go back to.

    Raises:
        ConvgpuError: No limit was set by command.
    """
    group = group_of(snapshot, asked.group)
    if not any(usage.source == "command" and _is(usage, asked.gpu) for usage in group.devices):
        raise ConvgpuError(f"group {asked.group} has no limit set by command", next_step="see `convgpu group ls`")
    return _change(snapshot, asked.group, asked.gpu, None, None)


def _is(usage: GroupUsage, gpu: str | None) -> bool:
    return gpu in (None, str(usage.index), usage.uuid)


def _change(
    snapshot: Snapshot, name: str, gpu: str | None, limit_bytes: int | None, source: str | None
) -> tuple[Snapshot, GroupChange]:
    unused = tuple(
        GroupUsage(
            uuid=each.uuid,
            index=each.index,
            limit_bytes=None,
            source=None,
            assigned_bytes=0,
            used_bytes=0,
            waiting=0,
            over=False,
        )
        for each in snapshot.gpus
    )
    before = next((each for each in snapshot.groups if each.name == name), None)
    before = before or GroupStatus(name=name, containers=(), devices=unused)
    if not any(_is(usage, gpu) for usage in before.devices):
        raise UsageError(f"there is no GPU '{gpu}'")
    devices = tuple(
        replace(
            usage,
            limit_bytes=limit_bytes,
            source=source,
            over=limit_bytes is not None and usage.assigned_bytes > limit_bytes,
        )
        if _is(usage, gpu)
        else usage
        for usage in before.devices
    )
    after = replace(before, devices=devices)
    others = [each for each in snapshot.groups if each.name != name]
    kept = [after] if after.containers or any(usage.limit_bytes is not None for usage in devices) else []
    groups = tuple(sorted([*others, *kept], key=lambda each: each.name))
    change = GroupChange(
        name=name,
        devices=tuple(
            GroupDeviceChange(
                uuid=new.uuid,
                index=new.index,
                old_limit_bytes=old.limit_bytes,
                new_limit_bytes=new.limit_bytes,
                assigned_bytes=new.assigned_bytes,
            )
            for old, new in zip(before.devices, devices, strict=True)
        ),
    )
    return replace(snapshot, groups=groups), change
