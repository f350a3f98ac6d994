# SPDX-License-Identifier: Apache-2.0
"""What the daemon writes into the audit log: its own values turned into the fields of the record types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from convgpu.audit.builder import Event, check_fields
from convgpu.audit.chain import Head
from convgpu.audit.clock import ClockWatch, SystemClock
from convgpu.audit.records import RECORD_TYPES
from convgpu.audit.writer import AuditWriter
from convgpu.core.decision import Denied, Granted, Numbers, RequestDecision, Suspended
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.request import Request
from convgpu.core.status import DeviceUsage
from convgpu.core.units import format_size
from convgpu.daemon.audit_log import Disk
from convgpu.daemon.event_feed import EventFeed
from convgpu.daemon.registry import GuardedProcess, Registry
from convgpu.metrics.tally import Tally
from convgpu.sources import procfs
from convgpu.sources.nvml import Gpu
from convgpu.sources.witness import WitnessEvent

_FLUSH_INTERVAL_S: Final = 0.2
"""How long a record that is no decision may wait for the disk."""


class _Noted(NamedTuple):
    """A decision that is not in the log yet, and when it was taken."""

    decision: RequestDecision
    process: GuardedProcess
    delivered: bool
    wall_ns: int
    mono_ns: int


class _Reclaimed(NamedTuple):
    """Credit that was taken back, in the same way."""

    process: GuardedProcess
    gpu: GpuUuid
    size_bytes: int
    reason: str
    wall_ns: int
    mono_ns: int


class Journal:
    """Writes records. Decisions are noted when they are taken and written when their answers are out.

    Args:
        writer: The one writer of the log, opened with `inline_sync=False`.
        registry: Names of containers.
        gpus: Indices of devices.
        algorithm: Name of the algorithm, part of every decision.

    Attributes:
        feed: Hands what is written to those who look on.
        clock_watch: Notices when the wall clock is set.
        look_for_failure: Is shown the writer after every write, and five times a second.
        tally: Counts the decisions, for those who ask how many.
    """

    def __init__(self, writer: AuditWriter, registry: Registry, gpus: tuple[Gpu, ...], algorithm: str) -> None:
        self._writer = writer
        self._registry = registry
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self.algorithm = algorithm
        self.feed = EventFeed()
        self.look_for_failure: Callable[[AuditWriter], None] = lambda _: None
        self.clock_watch = ClockWatch(SystemClock())
        self.tally = Tally()
        self._noted: list[_Noted | _Reclaimed] = []
        self._disk = Disk(writer)
        self._disk.start()

    @property
    def head(self) -> Head:
        """The last record, with all that has happened until now in the log."""
        self.flush()
        return self._writer.head

    def write(self, record_type: str, message: str | None = None, **fields: Any) -> int | None:
        """Write one record, with a sentence of its own or the type's; return its number, None if it is lost."""
        self.flush()
        known = check_fields(record_type, fields)
        text = known.sentence(fields) if message is None else message
        return self._write([Event(record_type, text, fields, time.time_ns(), time.monotonic_ns())])

    def flush(self) -> None:
        """Write the decisions that are noted."""
        if self._noted:
            noted, self._noted = self._noted, []
            self._write([self._event_of(each) for each in noted])

    def _write(self, events: list[Event]) -> int | None:
        seq = self._writer.write_events(events)
        self.feed.note(events, seq)
        self.look_for_failure(self._writer)
        if self._writer.urgent:
            self._disk.ask()
        return seq

    async def flush_forever(self) -> None:
        """Bring to the disk what is not there yet, five times a second; set seals and begin files when it is time."""
        while True:
            await asyncio.sleep(_FLUSH_INTERVAL_S)
            jump_ns = self.clock_watch.jump_ns()
            if jump_ns is not None:
                self.write("clock.jump", jump_ns=jump_ns)
            self._writer.tend(time.monotonic_ns())
            self.look_for_failure(self._writer)
            if self._writer.dirty:
                self._disk.ask()

    def close(self) -> None:
        """Wait for the disk and close the log."""
        self.flush()
        self._disk.close()
        self._writer.close()

    def decided(self, decision: RequestDecision, process: GuardedProcess, *, delivered: bool = True) -> None:
        """Note a decision about a request of this process; `flush` writes it, at the latest before the loop sleeps.

        Args:
            decision: What was decided.
            process: Who asked.
            delivered: False: the process was gone before the answer.
        """
        self.tally.decided(decision)
        self._note(_Noted(decision, process, delivered, time.time_ns(), time.monotonic_ns()))

    def reclaimed(self, process: GuardedProcess, gpu: GpuUuid, size_bytes: int, reason: str) -> None:
        """Note that a process holds so much less by the daemon's doing: idle credit, or a grant that did not arrive.

        To be called before the engine is told, so that it stands before what follows from it.
        """
        self._note(_Reclaimed(process, gpu, size_bytes, reason, time.time_ns(), time.monotonic_ns()))

    def _note(self, noted: _Noted | _Reclaimed) -> None:
        if not self._noted:
            asyncio.get_running_loop().call_soon(self.flush)
        self._noted.append(noted)

    def _event_of(self, noted: _Noted | _Reclaimed) -> Event:
        if isinstance(noted, _Reclaimed):
            return self._reclaim_event(noted)
        decision, process, delivered, wall_ns, mono_ns = noted
        request = decision.request
        fields = self._decision(request, process, decision.numbers)
        match decision:
            case Granted():
                type_name = "decision.resumed" if decision.resumed else "decision.granted"
                fields["waited_ns"] = decision.waited_ns
                fields["forced"] = request.forced
            case Denied():
                type_name = "decision.denied"
                fields["reason"] = str(decision.reason)
                fields["waited_ns"] = decision.waited_ns
            case Suspended():
                type_name = "decision.suspended"
                fields["need_bytes"] = decision.need_bytes
                fields["position"] = decision.position
                if decision.group is not None:
                    fields["group"] = decision.group
        text = RECORD_TYPES[type_name].sentence(fields)
        if not delivered:
            text += "; the process was gone before the answer"
        return Event(type_name, text, fields, wall_ns, mono_ns)

    def _reclaim_event(self, noted: _Reclaimed) -> Event:
        process, gpu, size_bytes, reason, wall_ns, mono_ns = noted
        fields = {
            **self.identity(process),
            "gpu": self.gpu(gpu),
            "size_bytes": size_bytes,
            "reason": reason,
        }
        type_name = "credit.reclaimed"
        return Event(type_name, RECORD_TYPES[type_name].sentence(fields), fields, wall_ns, mono_ns)

    def withdrawn(self, request_id: int, process: GuardedProcess, gpu: GpuUuid, size_bytes: int) -> None:
        """A request that waited has nobody left to answer."""
        self.tally.withdrawn()
        self.write(
            "decision.withdrawn",
            request=str(request_id),
            gpu=self.gpu(gpu),
            size_bytes=size_bytes,
            source="wrapper",
            **self.identity(process),
        )

    def process_seen(self, process: GuardedProcess) -> None:
        """A process said HELLO."""
        self.write("process.seen", **self.identity(process))

    def process_found(self, process: GuardedProcess, gpu: GpuUuid, used_bytes: int) -> None:
        """A process of an earlier daemon is taken over with what it was granted on a device."""
        self.write("process.seen", gpu=self.gpu(gpu), used_bytes=used_bytes, **self.identity(process))

    def process_gone(self, process: GuardedProcess, used_bytes: int) -> None:
        """A process ended; what it had not freed itself is given back for it."""
        self.write("process.gone", used_bytes=used_bytes, **self.identity(process))

    def estimated(self, process: GuardedProcess) -> None:
        """A process met a driver whose allocations its wrapper cannot read."""
        name = self._registry.name_of(process.container)
        self.write(
            "reconcile",
            f"{name}: {process.comm or 'process'}[{process.key.pid}] has a driver that allocates in a form which "
            "is not understood: its memory is estimated",
            reason="memory is estimated",
            **self.identity(process),
        )

    def witnessed(self, event: WitnessEvent) -> None:
        """The witness saw one large call, or one that the driver refused."""
        message = None
        if event.kind == "fail":
            message = f"{event.comm}[{event.pid}]: {format_size(event.size_bytes)} refused, seen at the {event.source}"
        self.write(
            "witness.free" if event.kind == "free" else "witness.alloc",
            message,
            size_bytes=event.size_bytes,
            outcome=event.kind,
            tid=event.tid,
            latency_ns=event.latency_ns,
            event_mono_ns=event.mono_ns,
            **self._event(event),
        )

    def witnessed_many(self, events: list[WitnessEvent], period_ns: int) -> None:
        """The witness saw many small calls of one process, all of one kind at one place."""
        sizes = [event.size_bytes for event in events]
        histogram: dict[str, int] = {}
        for size_bytes in sizes:
            power = str(max(0, size_bytes.bit_length() - 1))
            histogram[power] = histogram.get(power, 0) + 1
        self.write(
            "witness.summary",
            outcome=events[0].kind,
            count=len(sizes),
            size_bytes=sum(sizes),
            smallest_bytes=min(sizes),
            largest_bytes=max(sizes),
            histogram=histogram,
            period_ns=period_ns,
            **self._event(events[0]),
        )

    def snapshot(self, container_id: str, device: DeviceUsage) -> None:
        """One container on one device as it is, so that a reader can start in the middle of a log."""
        self.write(
            "snapshot",
            container=self.container(ContainerId(container_id)),
            gpu=self.gpu(GpuUuid(device.uuid)),
            limit_bytes=device.limit_bytes,
            guarantee_bytes=device.guarantee_bytes,
            assigned_bytes=device.assigned_bytes,
            used_bytes=device.used_bytes,
            peak_bytes=device.peak_bytes,
            witness_bytes=device.witness_bytes,
            nvml_bytes=device.nvml_bytes,
            requested_bytes=device.requested_bytes,
            waiting=device.waiting,
            denied=device.denied,
            suspended_ns=device.suspended_ms * 1_000_000,
        )

    def identity(self, process: GuardedProcess) -> dict[str, Any]:
        """Return the fields that say which process of which container."""
        return {
            "container": self.container(process.container),
            "process": {
                "pid": process.key.pid,
                "start_ticks": process.key.start_ticks,
                "comm": process.comm,
                "uid": process.user_id,
            },
        }

    def container(self, container: ContainerId) -> dict[str, Any]:
        """Return the field that says which container."""
        guarded = self._registry.of_id(container)
        if guarded is None:
            return {"id": container, "name": None, "image": None}
        return {"id": container, "name": guarded.name, "image": guarded.facts.image}

    def gpu(self, uuid: GpuUuid) -> dict[str, Any]:
        """Return the field that says which device."""
        known = self._gpus.get(uuid)
        return {"id": uuid, "index": known.index if known is not None else None}

    def _event(self, event: WitnessEvent) -> dict[str, Any]:
        fields: dict[str, Any] = {"source": event.source, "cgroup_id": event.cgroup_id}
        guarded = self._registry.of_cgroup(event.cgroup_id)
        if guarded is not None:
            fields["container"] = {
                "id": guarded.container_id,
                "name": guarded.name,
                "image": guarded.facts.image,
            }
        known = next((key for key in self._registry.processes if key.pid == event.pid), None)
        try:
            start_ticks = known.start_ticks if known is not None else procfs.start_ticks(event.pid)
        except procfs.ProcessGoneError:
            start_ticks = 0  # it ended before anybody could ask; the pid and the time of the event still name it
        fields["process"] = {"pid": event.pid, "start_ticks": start_ticks, "comm": event.comm}
        return fields

    def _decision(self, request: Request, process: GuardedProcess, numbers: Numbers | None) -> dict[str, Any]:
        fields = {
            **self.identity(process),
            "gpu": self.gpu(request.gpu),
            "api": request.api,
            "request": str(request.request_id),
            "size_bytes": request.size_bytes,
            "source": "wrapper",
            "algorithm": self.algorithm,
            "waitable": request.waitable,
            "arrived_ns": request.arrived_ns,
        }
        if numbers is None:
            return fields
        return fields | {
            "limit_bytes": numbers.limit,
            "guarantee_bytes": numbers.guarantee,
            "assigned_bytes": numbers.assigned,
            "used_bytes": numbers.used,
            "free_bytes": numbers.free,
            "capacity_bytes": numbers.capacity,
            "waiting_bytes": numbers.waiting,
        }
