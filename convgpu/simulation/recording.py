# SPDX-License-Identifier: Apache-2.0
"""What an audit log says about the events of the engine, as values. Records of other kinds are passed over.

Every event of the engine has a record that stands before the decisions that it brought about, so the order of the
records is the order of the events. Times of several boots are put on one clock by the wall-clock time of each boot's
first record.
"""

from __future__ import annotations

import json
from calendar import timegm
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import strptime
from typing import Any, Final

from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.errors import AuditError
from convgpu.simulation.events import (
    FIGURES,
    CapacityChanged,
    ContainerGone,
    ContainerSeen,
    DaemonStarted,
    DaemonStopped,
    Decided,
    Event,
    GroupLimitsSet,
    ProcessGone,
    ProcessSeen,
    QuotaSet,
    Reclaimed,
    SettingsChanged,
    StartDecided,
    Withdrawn,
)
from convgpu.simulation.workload import Device


@dataclass(slots=True)
class _Clock:
    """Puts the monotonic times of all boots on one clock."""

    boot: str = ""
    offset_ns: int = 0

    def read(self, record: Mapping[str, Any]) -> int:
        if record["boot_id"] != self.boot:
            self.boot = record["boot_id"]
            self.offset_ns = _wall_ns(record["ts"]) - int(record["mono_ns"])
        return int(record["mono_ns"]) + self.offset_ns


@dataclass(slots=True)
class _Context:
    """What a reader of one record needs besides it."""

    record: Mapping[str, Any]
    when: dict[str, int]
    clock: _Clock = field(default_factory=_Clock)

    @property
    def container(self) -> ContainerId:
        return ContainerId(self.record["container"]["id"])

    @property
    def process(self) -> ProcessKey:
        return ProcessKey(self.record["process"]["pid"], self.record["process"]["start_ticks"])

    @property
    def gpu(self) -> GpuUuid:
        return GpuUuid(self.record["gpu"]["id"])

    @property
    def quota(self) -> Quota:
        return Quota(self.record["limit_bytes"], self.record["guarantee_bytes"])


def read_recording(lines: Iterable[bytes], name: str) -> list[Event]:
    """Read the lines of an audit log, of all its files in their order. A torn last line is passed over.

    Raises:
        AuditError: A line is not a record, or the first event is not the start of a daemon.
    """
    events: list[Event] = []
    clock = _Clock()
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            reader = _READERS.get(record["type"])
            context = _Context(record, {"seq": record["seq"], "at_ns": clock.read(record)}, clock)
            event = None if reader is None else reader(context)
        except (ValueError, KeyError, TypeError) as error:
            raise AuditError(f"line {number} of {name} is not an audit record of this version: {error!r}") from error
        if event is not None:
            _add(events, event)
    if not events or not isinstance(events[0], DaemonStarted):
        raise AuditError(
            f"{name} does not begin with the start of a daemon, so what had been assigned before is not known",
            next_step="give a log from its beginning, or from a record of type daemon.start on",
        )
    return events


def _add(events: list[Event], event: Event) -> None:
    """Append an event; the records of one container, one for each device, are one."""
    last = events[-1] if events else None
    if isinstance(event, ContainerSeen) and isinstance(last, ContainerSeen) and last.container == event.container:
        events[-1] = replace(
            last,
            quotas={**last.quotas, **event.quotas},
            passed={**last.passed, **event.passed},
            assigned_bytes={**last.assigned_bytes, **event.assigned_bytes},
        )
    else:
        events.append(event)


def _read_start(context: _Context) -> Event:
    record = context.record
    return DaemonStarted(
        **context.when,
        boot=record["boot_id"],
        algorithm=record["algorithm"],
        seed=record.get("seed") or 0,
        settings=record.get("settings", {}),
        devices=tuple(
            Device(GpuUuid(gpu["id"]), str(gpu.get("index", gpu["id"])), gpu["capacity_bytes"])
            for gpu in record["gpus"]
        ),
        turns={GpuUuid(gpu["id"]): gpu.get("turn") or 0 for gpu in record["gpus"]},
        group_limits=_group_limits(record.get("limits", ())),
    )


def _group_limits(records: Iterable[Mapping[str, Any]]) -> dict[GroupName, dict[GpuUuid, int]]:
    """Return the limits of all groups that are named; one that has none on any device bounds nothing."""
    limits: dict[GroupName, dict[GpuUuid, int]] = {}
    for record in records:
        own = limits.setdefault(GroupName(record["group"]), {})
        if record["limit_bytes"] is not None:
            own[GpuUuid(record["gpu"])] = record["limit_bytes"]
    return limits


def _read_container(context: _Context) -> Event:
    record, gpu = context.record, context.gpu
    queued_ns = record.get("queued_ns")
    return ContainerSeen(
        **context.when,
        container=context.container,
        name=record["container"].get("name") or context.container[:12],
        created_ns=record["created_ns"],
        quotas={gpu: context.quota},
        priority=record["priority"],
        wait_ns=record["wait_ns"],
        restored=record.get("restored"),
        passed={gpu: record.get("passed", 0)},
        assigned_bytes={gpu: record["assigned_bytes"]},
        queued_ns=None if queued_ns is None else queued_ns + context.clock.offset_ns,
        group=record.get("group"),
    )


def _read_process(context: _Context) -> Event:
    found = "gpu" in context.record
    return ProcessSeen(
        **context.when,
        process=context.process,
        container=context.container,
        gpu=context.gpu if found else None,
        held_bytes=context.record["used_bytes"] if found else 0,
    )


def _read_decision(context: _Context) -> Event:
    record = context.record
    reason = record.get("reason")
    arrived_ns = record.get("arrived_ns", record["mono_ns"] - record.get("waited_ns", 0))
    return Decided(
        **context.when,
        kind=record["type"].partition(".")[2],
        request=record["request"],
        process=context.process,
        container=context.container,
        gpu=context.gpu,
        size_bytes=record["size_bytes"],
        waitable=record.get("waitable", reason != "not_now"),
        forced=record.get("forced", False),
        arrived_ns=arrived_ns + context.clock.offset_ns,
        api=record.get("api") or "",
        reason=reason,
        figures={name: record[name] for name in FIGURES if record.get(name) is not None},
    )


def _read_start_decision(context: _Context) -> Event:
    admitted = context.record["type"] == "start.admitted"
    return StartDecided(
        **context.when, container=context.container, admitted=admitted, reason=context.record.get("reason")
    )


_READERS: Final[Mapping[str, Callable[[_Context], Event]]] = {
    "daemon.start": _read_start,
    "daemon.stop": lambda c: DaemonStopped(**c.when),
    "config.changed": lambda c: SettingsChanged(
        **c.when, settings=c.record["settings"], old_settings=c.record["old_settings"]
    ),
    "capacity.changed": lambda c: CapacityChanged(**c.when, gpu=c.gpu, capacity_bytes=c.record["capacity_bytes"]),
    "group.limits": lambda c: GroupLimitsSet(**c.when, limits=_group_limits(c.record["limits"])),
    "container.seen": _read_container,
    "container.gone": lambda c: ContainerGone(**c.when, container=c.container),
    "start.admitted": _read_start_decision,
    "start.denied": _read_start_decision,
    "process.seen": _read_process,
    "process.gone": lambda c: ProcessGone(**c.when, process=c.process, container=c.container),
    "decision.granted": _read_decision,
    "decision.denied": _read_decision,
    "decision.suspended": _read_decision,
    "decision.resumed": _read_decision,
    "decision.withdrawn": lambda c: Withdrawn(**c.when, request=c.record["request"], process=c.process),
    "credit.reclaimed": lambda c: Reclaimed(**c.when, process=c.process, gpu=c.gpu, size_bytes=c.record["size_bytes"]),
    "limit.set": lambda c: QuotaSet(**c.when, container=c.container, gpu=c.gpu, quota=c.quota),
    "limit.removed": lambda c: QuotaSet(**c.when, container=c.container, gpu=c.gpu, quota=c.quota),
}


def _wall_ns(text: str) -> int:
    """Read the log's time stamps: RFC 3339, UTC, nine digits."""
    seconds, _, nanoseconds = text.removesuffix("Z").partition(".")
    return timegm(strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 1_000_000_000 + int(nanoseconds.ljust(9, "0"))
