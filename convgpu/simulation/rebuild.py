# SPDX-License-Identifier: Apache-2.0
"""Makes a workload of a recording, to see what another algorithm would have done with the same programs.

What does not depend on the scheduler keeps its time: arrivals of containers, changes of limits and of capacities. What
a process did is put after the answers that it had by then: a request that waits longer or shorter than when it was
recorded moves all that came after its answer by as much. What a program would have done had it been denied what it was
granted, or the other way round, nobody recorded; `Outcome` says what is assumed. What ran when the recording ended ends
there. Restarts of the daemon are passed over: a request asked again is the one that was asked before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from convgpu.core.groups import GroupLimits
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.ledger import Carried
from convgpu.core.quota import Quota
from convgpu.simulation.events import (
    CapacityChanged,
    ContainerGone,
    ContainerSeen,
    DaemonStarted,
    Decided,
    Event,
    GroupLimitsSet,
    ProcessGone,
    ProcessSeen,
    QuotaSet,
    Reclaimed,
    StartDecided,
    Withdrawn,
)
from convgpu.simulation.program import Program
from convgpu.simulation.workload import (
    CapacityChange,
    Container,
    Device,
    GroupsChange,
    Outcome,
    QuotaChange,
    Workload,
)


@dataclass(slots=True, eq=False)
class _Stay:
    """What one container did so far.

    Attributes:
        key: Its id in the workload: a container that is started again is another one there.
        last_end_ns: When the last of its processes that have ended did so; before any, when the container could begin.
        admitted, start_decided: Its start does not wait, or waits no more; it was decided about.
        lost_ns: Since when it is not known whether it still runs: a daemon has started and not found it.
    """

    seen: ContainerSeen
    key: ContainerId
    last_end_ns: int
    programs: list[Program] = field(default_factory=list)
    running: dict[ProcessKey, Program] = field(default_factory=dict)
    quotas: dict[GpuUuid, Quota] = field(default_factory=dict)
    ended_processes: int = 0
    carried: dict[GpuUuid, Carried] | None = None
    admitted: bool = True
    start_decided: bool = True
    lost_ns: int | None = None

    def join(self, key: ProcessKey, at_ns: int) -> Program:
        """A process starts."""
        program = Program(self.ended_processes, max(0, at_ns - self.last_end_ns), at_ns)
        self.programs.append(program)
        self.running[key] = program
        return program

    def leave(self, key: ProcessKey, at_ns: int) -> None:
        """A process ends."""
        self.running.pop(key).end(at_ns)
        self.ended_processes += 1
        self.last_end_ns = at_ns


class _Rebuilder:
    """Goes through the events once."""

    def __init__(self, start: DaemonStarted) -> None:
        self._boot = start.boot
        self._zero_ns = start.at_ns
        self._now_ns = start.at_ns
        self._cause_ns = start.at_ns
        self._devices: dict[GpuUuid, Device] = {}
        self._capacities: dict[GpuUuid, int] = {}
        self._stays: dict[ContainerId, _Stay] = {}
        self._home: dict[ProcessKey, _Stay] = {}
        self._times_seen: dict[ContainerId, int] = {}
        self._done: list[Container] = []
        self._quota_changes: list[QuotaChange] = []
        self._capacity_changes: list[CapacityChange] = []
        self._first_limits = start.group_limits
        self._group_limits = dict(start.group_limits)
        self._group_changes: list[GroupsChange] = []

    def take(self, event: Event) -> None:
        """Note one event."""
        self._now_ns = event.at_ns
        if not self._is_consequence(event):
            self._cause_ns = event.at_ns
        match event:
            case DaemonStarted():
                self._restart(event)
            case CapacityChanged():
                self._set_capacity(event.gpu, event.capacity_bytes)
            case GroupLimitsSet():
                self._set_groups(event.limits)
            case ContainerSeen():
                self._see(event)
            case StartDecided():
                self._decide_start(event)
            case ContainerGone():
                if event.container in self._stays:
                    self._end(event.container, event.at_ns)
            case ProcessSeen():
                self._see_process(event)
            case ProcessGone():
                self._program(event.process, event.container)
                self._leave(event.process, event.at_ns)
            case Decided():
                self._note_decision(event)
            case Reclaimed():
                stay = self._home.get(event.process)
                if stay is not None:
                    stay.running[event.process].release(event.gpu, event.size_bytes, event.at_ns)
            case Withdrawn():
                self._withdraw(event)
            case QuotaSet():
                self._set_quota(event.container, event.gpu, event.quota)

    def _is_consequence(self, event: Event) -> bool:
        """Whether it is a decision about a request that waited, brought about by the event before it.

        It was taken at the moment of that event, whenever it was written. A time that is over is an event of its own.
        """
        if not isinstance(event, Decided) or event.reason == "wait_timeout":
            return False
        stay = self._home.get(event.process)
        return stay is not None and event.request in stay.running[event.process].pending

    # Daemons and devices.

    def _restart(self, event: DaemonStarted) -> None:
        for device in event.devices:
            self._devices.setdefault(device.gpu, device)
            self._set_capacity(device.gpu, device.capacity_bytes)
        gone: GroupLimits = {group: {} for group in self._group_limits}
        self._set_groups({**gone, **event.group_limits})
        for stay in self._stays.values():
            stay.lost_ns = event.at_ns
            for program in stay.running.values():
                program.forget_answers(event.at_ns)
        if event.boot != self._boot:
            self._boot = event.boot
            for container in tuple(self._stays):
                self._end(container, event.at_ns)

    def _set_capacity(self, gpu: GpuUuid, capacity_bytes: int) -> None:
        before = self._capacities.setdefault(gpu, capacity_bytes)
        if before != capacity_bytes:
            self._capacities[gpu] = capacity_bytes
            self._capacity_changes.append(CapacityChange(self._now_ns - self._zero_ns, gpu, capacity_bytes))

    def _set_groups(self, limits: GroupLimits) -> None:
        changes = {group: own for group, own in limits.items() if self._group_limits.get(group, {}) != own}
        if changes:
            self._group_limits |= changes
            self._group_changes.append(GroupsChange(self._now_ns - self._zero_ns, changes))

    # Containers.

    def _see(self, event: ContainerSeen) -> None:
        stay = self._stays.get(event.container)
        if stay is not None:
            stay.lost_ns = None
            for gpu, quota in event.quotas.items():
                self._set_quota(event.container, gpu, quota)
            return
        times = self._times_seen[event.container] = self._times_seen.get(event.container, 0) + 1
        key = event.container if times == 1 else ContainerId(f"{event.container}/{times}")
        stay = _Stay(event, key, event.at_ns, quotas=dict(event.quotas))
        stay.admitted = stay.start_decided = event.queued_ns is None
        if event.restored:
            assigned = event.assigned_bytes.items()
            stay.carried = {gpu: Carried(size_bytes, passed=event.passed[gpu]) for gpu, size_bytes in assigned}
        self._stays[event.container] = stay

    def _decide_start(self, event: StartDecided) -> None:
        stay = self._stays.get(event.container)
        if stay is None:
            return
        stay.admitted = event.admitted
        stay.start_decided = True
        stay.last_end_ns = event.at_ns

    def _set_quota(self, container: ContainerId, gpu: GpuUuid, quota: Quota) -> None:
        stay = self._stays.get(container)
        if stay is not None and stay.quotas.get(gpu) != quota:
            stay.quotas[gpu] = quota
            self._quota_changes.append(QuotaChange(self._now_ns - self._zero_ns, stay.key, gpu, quota))

    def _end(self, container: ContainerId, at_ns: int) -> None:
        stay = self._stays.pop(container)
        for key, program in tuple(stay.running.items()):
            del self._home[key]
            stay.leave(key, at_ns if program.lost_ns is None else min(at_ns, program.lost_ns))
        if stay.lost_ns is not None:
            at_ns = min(at_ns, stay.lost_ns)
        seen = stay.seen
        self._done.append(
            Container(
                container_id=stay.key,
                name=seen.name,
                arrival_ns=seen.at_ns - self._zero_ns,
                created_ns=seen.created_ns,
                quotas=seen.quotas,
                processes=tuple(program.process() for program in stay.programs),
                priority=seen.priority,
                wait_ns=seen.wait_ns,
                group=seen.group,
                end_delay_ns=max(0, at_ns - stay.last_end_ns) if stay.admitted else 0,
                carried=stay.carried,
                admit_wait=seen.queued_ns is not None,
                gives_up_ns=None if stay.start_decided else at_ns - seen.at_ns,
            )
        )

    # Processes.

    def _see_process(self, event: ProcessSeen) -> None:
        known = event.process in self._home
        program = self._program(event.process, event.container)
        if program is None or event.gpu is None:
            return
        program.lost_ns = None
        if known:
            program.correct(event.gpu, event.held_bytes, event.at_ns)
        elif event.held_bytes:
            program.adopted[event.gpu] = event.held_bytes
            program.hold(event.gpu, event.held_bytes)

    def _program(self, key: ProcessKey, container: ContainerId) -> Program | None:
        """Return a process, which begins now if it was not seen before; None: its container is not known."""
        stay = self._home.get(key)
        if stay is None:
            stay = self._stays.get(container)
            if stay is None:
                return None
            self._home[key] = stay
            return stay.join(key, self._now_ns)
        return stay.running[key]

    def _leave(self, key: ProcessKey, at_ns: int) -> None:
        stay = self._home.pop(key, None)
        if stay is not None:
            stay.leave(key, at_ns)

    def _note_decision(self, event: Decided) -> None:
        program = self._program(event.process, event.container)
        if program is None:
            return
        if event.request not in program.pending:
            asked_before = program.asked_before(event.gpu, event.size_bytes)
            if asked_before is None:
                program.ask(event)
            else:
                program.pending[event.request] = program.pending.pop(asked_before)
        if event.kind != "suspended":
            outcome = Outcome.DENIED if event.kind == "denied" else Outcome.GRANTED
            program.answer(event.request, outcome, self._cause_ns)

    def _withdraw(self, event: Withdrawn) -> None:
        stay = self._home.get(event.process)
        if stay is not None and event.request in stay.running[event.process].pending:
            stay.running[event.process].withdraw(event.request, event.at_ns)

    def finish(self, name: str) -> Workload:
        """The recording is over: what still runs ends here."""
        for container in tuple(self._stays):
            self._end(container, self._now_ns)
        containers = sorted(self._done, key=lambda container: container.arrival_ns)
        return Workload(
            f"{name}, {len(containers)} container{'' if len(containers) == 1 else 's'}",
            tuple(self._devices.values()),
            tuple(containers),
            tuple(self._quota_changes),
            tuple(self._capacity_changes),
            self._first_limits,
            tuple(self._group_changes),
        )


def rebuild(events: Iterable[Event], name: str) -> Workload:
    """Make a workload of a recording, whose first event is the start of a daemon.

    Args:
        events: As `read_recording` returns them.
        name: What the recording is called.
    """
    remaining = iter(events)
    start = next(remaining)
    assert isinstance(start, DaemonStarted)  # noqa: S101  # as `read_recording` makes sure
    rebuilder = _Rebuilder(start)
    rebuilder.take(start)
    for event in remaining:
        rebuilder.take(event)
    return rebuilder.finish(name)
