# SPDX-License-Identifier: Apache-2.0
"""Groups of containers: their limits, by command and by configuration, and which group a container is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from convgpu.api import GroupChange, GroupDeviceChange
from convgpu.config.groups import limit_of
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import InForce
from convgpu.core.decision import Decision
from convgpu.core.engine import Engine
from convgpu.core.groups import GroupLimits, least_limit, path_of
from convgpu.core.identity import GpuUuid, GroupName
from convgpu.core.status import GroupStatus, GroupUsage
from convgpu.core.units import format_size
from convgpu.daemon.journal import Journal
from convgpu.daemon.registry import Registry
from convgpu.daemon.state import State, StateFile
from convgpu.errors import ConvgpuError, QuotaRefusedError, UsageError
from convgpu.sources.nvml import Gpu

COMMAND: Final = "command"
CONFIGURATION: Final = "configuration"


def limits_in_force(config: DaemonConfig, state: State, gpus: tuple[Gpu, ...]) -> dict[GroupName, dict[GpuUuid, int]]:
    """Return the limit of every group on every device where it has one: by command, else by configuration."""
    found: dict[GroupName, dict[GpuUuid, int]] = {}
    for name in (*config.groups, *state.groups):
        group = GroupName(name)
        limits = {gpu.uuid: _limit(group, gpu, config, state)[0] for gpu in gpus}
        kept = {uuid: limit_bytes for uuid, limit_bytes in limits.items() if limit_bytes is not None}
        if kept:
            found[group] = kept
    return found


def _limit(group: GroupName, gpu: Gpu, config: DaemonConfig, state: State) -> tuple[int | None, str | None]:
    """Return a group's limit on a device, and where it comes from."""
    by_command = state.groups.get(group, {})
    if gpu.uuid in by_command:
        return by_command[gpu.uuid], COMMAND
    configured = config.groups.get(group)
    return (None, None) if configured is None else (limit_of(configured, gpu), CONFIGURATION)


class Groups:
    """Keeps the engine's groups equal to what was set by command and by configuration.

    Args:
        carry_out: Takes the decisions that a change brings about.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self,
        in_force: InForce,
        engine: Engine,
        registry: Registry,
        journal: Journal,
        state: StateFile,
        gpus: tuple[Gpu, ...],
        carry_out: Callable[[Iterable[Decision]], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._in_force = in_force
        self._engine = engine
        self._registry = registry
        self._journal = journal
        self._state = state
        self._gpus = gpus
        self._carry_out = carry_out
        self._clock = clock

    # What holds.

    def most_bytes(self, group: GroupName | None, gpu: GpuUuid) -> int | None:
        """Return the most that a container of a group may hold on a device because of its groups; None: no bound."""
        least = least_limit(self._engine.group_limits(), path_of(group), gpu)
        return None if least is None else least[0]

    def check_start(self, group: GroupName | None, limit_bytes: int | None) -> None:
        """Refuse a container that its group has no room for, even were it alone there.

        Raises:
            QuotaRefusedError: Its limit is above a group's on every device, or the group has none and must have one.
        """
        if group is None:
            return
        least = [least_limit(self._engine.group_limits(), path_of(group), gpu.uuid) for gpu in self._gpus]
        if self._in_force.config.group_without_limit == "refuse" and not any(least):
            raise QuotaRefusedError(
                f"group {group} has no limit, and group_without_limit is 'refuse'",
                next_step=f"correct the name (`convgpu group ls`), or `convgpu group set {group} SIZE`",
            )
        bounds = [each for each in least if each is not None]
        if limit_bytes is None or len(bounds) < len(least):
            return
        most_bytes, whose = max(bounds)
        if limit_bytes > most_bytes:
            raise QuotaRefusedError(
                f"a limit of {format_size(limit_bytes)} is more than the {format_size(most_bytes)} that group {whose} "
                "may have",
                next_step=f"ask for less, or raise the group's (`convgpu group set {whose} SIZE`)",
            )

    # As people see it.

    def all(self) -> tuple[GroupStatus, ...]:
        """Return all groups that have a limit, or containers."""
        named = {*self._engine.groups(), *map(GroupName, (*self._in_force.config.groups, *self._state.state.groups))}
        return tuple(self._status(group) for group in sorted(named))

    def get(self, group: GroupName) -> GroupStatus:
        """Return one group.

        Raises:
            UsageError: It has neither a limit nor a container.
        """
        found = next((status for status in self.all() if status.name == group), None)
        if found is None:
            raise UsageError(
                f"there is no group {group}: it has neither a limit nor a container", next_step="see `convgpu group ls`"
            )
        return found

    def _status(self, group: GroupName) -> GroupStatus:
        devices = []
        for gpu in self._gpus:
            account = self._engine.group_account(group, gpu.uuid)
            devices.append(
                GroupUsage(
                    uuid=gpu.uuid,
                    index=gpu.index,
                    limit_bytes=account.limit_bytes,
                    source=_limit(group, gpu, self._in_force.config, self._state.state)[1],
                    assigned_bytes=account.assigned_bytes,
                    used_bytes=sum(self._registry.held_bytes(member, gpu.uuid) for member in account.members),
                    waiting=account.waiting,
                    over=account.over,
                )
            )
        names = [each.name for each in self._registry.containers.values() if group in path_of(each.group)]
        return GroupStatus(name=group, containers=tuple(sorted(names)), devices=tuple(devices))

    # Changes.

    def set_limit(self, group: GroupName, limit_bytes: int | None, gpu: str | None, user_id: int) -> GroupChange:
        """Set a group's limit by command, on one device or all; None: it has no limit there, whatever is configured.

        Raises:
            QuotaRefusedError: With it, containers could wait for each other for ever. Nothing was changed.
            UsageError: No such device.
        """
        own = self._by_command(group)
        own |= dict.fromkeys((each.uuid for each in self._named(gpu)), limit_bytes)
        return self._change_command(group, own, user_id)

    def remove_limit(self, group: GroupName, gpu: str | None, user_id: int) -> GroupChange:
        """Go back to what is configured for a group, on one device or all.

        Raises:
            ConvgpuError: No limit was set by command.
            QuotaRefusedError: As for `set_limit`.
            UsageError: No such device.
        """
        own = self._by_command(group)
        gone = own.keys() & {each.uuid for each in self._named(gpu)}
        if not gone:
            raise ConvgpuError(f"group {group} has no limit set by command", next_step="see `convgpu group ls`")
        kept = {uuid: limit_bytes for uuid, limit_bytes in own.items() if uuid not in gone}
        return self._change_command(group, kept, user_id)

    def check(self, config: DaemonConfig) -> None:
        """Refuse a configuration with whose groups containers could wait for each other for ever; changes nothing.

        Raises:
            QuotaRefusedError: It is so.
        """
        self._engine.check_group_limits(self._differences(config))

    def reconfigure(self) -> None:
        """Bring into force what the configuration says now; to be checked before."""
        self._apply(self._differences(self._in_force.config), CONFIGURATION, None)

    def _named(self, gpu: str | None) -> tuple[Gpu, ...]:
        if gpu is None:
            return self._gpus
        found = tuple(each for each in self._gpus if gpu in (str(each.index), each.uuid))
        if not found:
            there_are = ", ".join(f"{each.index} ({each.uuid})" for each in self._gpus)
            raise UsageError(f"there is no GPU '{gpu}'; there are: {there_are}")
        return found

    def _by_command(self, group: GroupName) -> dict[GpuUuid, int | None]:
        saved = self._state.state.groups.get(group, {})
        return {GpuUuid(uuid): limit_bytes for uuid, limit_bytes in saved.items()}

    def _change_command(self, group: GroupName, own: dict[GpuUuid, int | None], user_id: int) -> GroupChange:
        groups = self._state.state.groups
        before = groups.pop(group, None)
        old = dict(self._engine.group_limits().get(group, {}))
        if own:
            groups[group] = {str(uuid): limit_bytes for uuid, limit_bytes in own.items()}
        try:
            self._apply(self._differences(self._in_force.config), COMMAND, user_id)
        except QuotaRefusedError:
            groups.pop(group, None)
            if before is not None:
                groups[group] = before
            raise
        self._state.save()
        return GroupChange(
            name=group,
            devices=tuple(
                GroupDeviceChange(
                    uuid=usage.uuid,
                    index=usage.index,
                    old_limit_bytes=old.get(GpuUuid(usage.uuid)),
                    new_limit_bytes=usage.limit_bytes,
                    assigned_bytes=usage.assigned_bytes,
                )
                for usage in self._status(group).devices
            ),
        )

    def _differences(self, config: DaemonConfig) -> dict[GroupName, dict[GpuUuid, int]]:
        """Return the limits of those groups whose limits are others than the engine has."""
        wanted = limits_in_force(config, self._state.state, self._gpus)
        present = self._engine.group_limits()
        return {
            group: wanted.get(group, {})
            for group in {**wanted, **present}
            if wanted.get(group, {}) != dict(present.get(group, {}))
        }

    def _apply(self, changes: GroupLimits, source: str, user_id: int | None) -> None:
        if not changes:
            return
        old = {group: dict(self._engine.group_limits().get(group, {})) for group in changes}
        decisions = self._engine.set_group_limits(changes, self._clock())
        for process in self._registry.processes.values():
            guarded = self._registry.containers.get(process.container)
            if guarded is not None and not changes.keys().isdisjoint(path_of(guarded.group)):
                for slot, uuid in enumerate(process.page.gpus):
                    process.page.set_limit(slot, self._engine.most_bytes(process.container, uuid))
        self._journal.write(
            "group.limits",
            limits=[
                self.record(group, gpu, changes[group].get(gpu.uuid), old[group])
                for group in changes
                for gpu in self._gpus
                if gpu.uuid in changes[group] or gpu.uuid in old[group]
            ],
            source=source,
            by_uid=user_id,
        )
        self._carry_out(decisions)

    def records(self) -> list[dict[str, object]]:
        """Return all limits in force, as the log has them."""
        limits = self._engine.group_limits()
        by_uuid = {gpu.uuid: gpu for gpu in self._gpus}
        return [
            self.record(group, by_uuid[uuid], limit_bytes)
            for group, own in limits.items()
            for uuid, limit_bytes in own.items()
        ]

    @staticmethod
    def record(
        group: GroupName, gpu: Gpu, limit_bytes: int | None, old: Mapping[GpuUuid, int] | None = None
    ) -> dict[str, object]:
        """Return one limit as the log has it; `old`: the limits before, where it is a change."""
        fields: dict[str, object] = {"group": group, "gpu": gpu.uuid, "index": gpu.index, "limit_bytes": limit_bytes}
        return fields if old is None else fields | {"old_limit_bytes": old.get(gpu.uuid)}
