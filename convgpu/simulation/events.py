# SPDX-License-Identifier: Apache-2.0
"""The events of the engine, as an audit log has them: what was asked of it, and what it decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from convgpu.core.bypass import DEFAULT_MAX_BYPASS
from convgpu.core.groups import GroupLimits
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.simulation.result import Settings
from convgpu.simulation.workload import Device

FIGURES: Final = (
    "limit_bytes",
    "guarantee_bytes",
    "assigned_bytes",
    "used_bytes",
    "free_bytes",
    "capacity_bytes",
    "waiting_bytes",
    "need_bytes",
    "position",
)
"""What a decision record says of the moment, by field; names without `_bytes` are the attributes of `Numbers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        seq: Serial number of its record.
        at_ns: When, on the recording's one clock.
    """

    seq: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStarted(Event):
    """A daemon begins; what it decides by.

    Attributes:
        settings: By their names in the configuration file; a log of an early version has none.
        turns: How often something of each device had been given away before.
        group_limits: The limits of groups; a log of an early version has none.
    """

    boot: str
    algorithm: str
    seed: int
    settings: Mapping[str, str]
    devices: tuple[Device, ...]
    turns: Mapping[GpuUuid, int]
    group_limits: GroupLimits = field(default_factory=dict)

    def simulated(self) -> Settings:
        """The same for a simulation, which has one safety rule for all devices."""
        return Settings(
            algorithm=self.algorithm,
            seed=self.seed,
            safe=all(is_safe(self.settings, device) for device in self.devices),
            max_bypass=max_bypass(self.settings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStopped(Event):
    """It stops on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanged(Event):
    """Some settings are others from now on, by name; one that is only among the old ones is not set any more."""

    settings: Mapping[str, str]
    old_settings: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityChanged(Event):
    """A device may be assigned more or less."""

    gpu: GpuUuid
    capacity_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSeen(Event):
    """A container begins, on all of its devices.

    Attributes:
        restored: It ran already under an earlier daemon; None: an early version of the log, which does not say.
        passed: How often it had been passed over, by device.
        assigned_bytes: What was set aside for it after that, by device.
        queued_ns: Since when its start waits; None: it runs.
        group: In which group it is.
    """

    container: ContainerId
    name: str
    created_ns: int
    quotas: Mapping[GpuUuid, Quota]
    priority: int
    wait_ns: int | None
    restored: bool | None
    passed: Mapping[GpuUuid, int]
    assigned_bytes: Mapping[GpuUuid, int]
    queued_ns: int | None
    group: GroupName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDecided(Event):
    """A start that waited does not any more."""

    container: ContainerId
    admitted: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerGone(Event):
    """A container ended."""

    container: ContainerId


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSeen(Event):
    """A process joins, or is found by a restarted daemon.

    Attributes:
        gpu, held_bytes: Found: what it had been granted on this device.
    """

    process: ProcessKey
    container: ContainerId
    gpu: GpuUuid | None = None
    held_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGone(Event):
    """A process ended."""

    process: ProcessKey
    container: ContainerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Event):
    """A decision about a request.

    Attributes:
        kind: `granted`, `denied`, `suspended` or `resumed`.
        figures: What the record says of the moment, by the names in `FIGURES`.
    """

    kind: str
    request: str
    process: ProcessKey
    container: ContainerId
    gpu: GpuUuid
    size_bytes: int
    waitable: bool
    forced: bool
    arrived_ns: int
    api: str
    reason: str | None
    figures: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaimed(Event):
    """A process holds so much less."""

    process: ProcessKey
    gpu: GpuUuid
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Event):
    """Nobody waits for the answer to this request any more."""

    request: str
    process: ProcessKey


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSet(Event):
    """A limit is changed by command."""

    container: ContainerId
    gpu: GpuUuid
    quota: Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimitsSet(Event):
    """Some groups have other limits, of each all that it has."""

    limits: GroupLimits


def is_safe(settings: Mapping[str, str], device: Device) -> bool:
    """Whether the safety rule is in force on a device: as set for its UUID, for its index, or for all."""
    names = (f"device.{device.gpu}.safe", f"device.{device.name}.safe", "safe")
    return next((settings[name] for name in names if name in settings), "true") == "true"


def max_bypass(settings: Mapping[str, str]) -> int:
    """How often one that waits may be passed over."""
    return int(settings.get("max_bypass", DEFAULT_MAX_BYPASS))
