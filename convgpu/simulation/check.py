# SPDX-License-Identifier: Apache-2.0
"""Does the engine decide today as it did when it was recorded? Gives it the recorded events, one by one, and compares.

This is no simulation: every event happens when and as it was recorded, so that a difference can only come from the
engine (another version), from its settings, or from a log with gaps. One difference is often the cause of later ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from convgpu.core.algorithms import load_algorithm
from convgpu.core.decision import Admitted, Decision, Denied, Granted, NotAdmitted, Suspended
from convgpu.core.engine import Engine
from convgpu.core.ledger import Carried
from convgpu.core.request import Request
from convgpu.errors import ConvgpuError
from convgpu.simulation import judge
from convgpu.simulation.events import (
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
    is_safe,
    max_bypass,
)
from convgpu.simulation.workload import Device


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the engine and the record do not agree.

    Attributes:
        seq: Serial number of the record; 0: a decision of the engine that has none.
    """

    seq: int
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result.

    Attributes:
        decisions: Recorded decisions that were compared.
        daemons: Runs of the daemon in the recording.
    """

    decisions: int
    daemons: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class _Expected:
    """A decision of the engine that must be the next, or one of the next, in the log."""

    subject: str
    kind: str
    reason: str | None
    figures: dict[str, int]


@dataclass(slots=True)
class _Checker:
    engine: Engine = field(default_factory=lambda: Engine({}, load_algorithm("fifo")))
    devices: tuple[Device, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    expected: list[_Expected] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    decisions: int = 0
    daemons: int = 0
    differences: list[Difference] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Give the engine one event, or compare one decision."""
        try:
            self._take(event)
        except (ConvgpuError, ValueError) as error:
            self._differ(event, f"the engine does not take the event: {error}")

    def _take(self, event: Event) -> None:
        now_ns = event.at_ns
        match event:
            case DaemonStarted():
                self._begin(event)
            case DaemonStopped():
                self._report_unrecorded()
            case SettingsChanged():
                self._change_settings(event)
            case CapacityChanged():
                self._expect_later(self.engine.set_capacity(event.gpu, event.capacity_bytes, now_ns))
            case GroupLimitsSet():
                self._expect_later(self.engine.set_group_limits(event.limits, now_ns))
            case ContainerSeen():
                self._start(event)
            case StartDecided():
                self._compare_start(event)
            case ContainerGone():
                self._expect(self.engine.end_container(event.container, now_ns))
            case ProcessSeen():
                self.engine.start_process(event.process, event.container)
                if event.gpu is not None:
                    self.engine.adopt(event.process, event.gpu, event.held_bytes)
            case ProcessGone():
                self._expect(self.engine.end_process(event.process, event.container, now_ns))
            case Reclaimed():
                self._expect(self.engine.release(event.process, event.gpu, event.size_bytes, now_ns))
            case Withdrawn():
                self.waiting.discard(event.request)
                self._expect(self.engine.cancel(event.request, now_ns))
            case QuotaSet():
                self._expect_later(self.engine.set_quota(event.container, event.gpu, event.quota, now_ns))
            case Decided():
                self._compare(event)

    def _begin(self, event: DaemonStarted) -> None:
        # What a daemon that was killed decided last may not be in the log; one that stopped has been held to it.
        self.expected.clear()
        self.waiting.clear()
        self.daemons += 1
        self.engine = judge.make_engine(event.devices, event.simulated(), event.group_limits)
        self.devices = event.devices
        self.settings = dict(event.settings)
        self._set_safe(event.at_ns)
        for gpu, turn in event.turns.items():
            self.engine.restore_turn(gpu, turn)

    def _change_settings(self, event: SettingsChanged) -> None:
        if "algorithm" in event.settings:
            algorithm = load_algorithm(event.settings["algorithm"])
            self._expect_later(self.engine.set_algorithm(algorithm, event.at_ns))
        if "max_bypass" in event.settings:
            self._expect_later(self.engine.set_max_bypass(max_bypass(event.settings), event.at_ns))
        for name in event.old_settings:
            self.settings.pop(name, None)
        self.settings |= event.settings
        self._set_safe(event.at_ns)

    def _set_safe(self, now_ns: int) -> None:
        for device in self.devices:
            self._expect_later(self.engine.set_safe(device.gpu, is_safe(self.settings, device), now_ns))

    def _start(self, event: ContainerSeen) -> None:
        if event.restored:
            carried = {gpu: Carried(size, passed=event.passed[gpu]) for gpu, size in event.assigned_bytes.items()}
            self.engine.restore_container(
                event.container,
                event.created_ns,
                event.quotas,
                carried=carried,
                wait_ns=event.wait_ns,
                priority=event.priority,
                group=event.group,
            )
        else:
            decisions = self.engine.start_container(
                event.container,
                event.created_ns,
                event.quotas,
                wait_ns=event.wait_ns,
                priority=event.priority,
                group=event.group,
                queued_ns=event.queued_ns,
                now_ns=event.at_ns,
            )
            self._expect(decisions)
        for gpu, recorded in event.assigned_bytes.items():
            assigned = self.engine.account(event.container, gpu, event.at_ns).assigned_bytes
            if assigned != recorded:
                self._differ(event, f"{event.name} is assigned {assigned} bytes at its start, recorded: {recorded}")

    def _expect(self, decisions: Iterable[Decision]) -> None:
        """These come next: what an answer brings about is recorded before the answers after it."""
        self.expected[:0] = map(_expected, decisions)

    def _expect_later(self, decisions: Iterable[Decision]) -> None:
        """These come when those are through that are expected already: a change of several devices is one event."""
        self.expected += map(_expected, decisions)

    def _compare(self, event: Decided) -> None:
        if event.kind != "resumed" and event.request not in self.waiting:
            self._ask(event)
        elif event.reason == "wait_timeout" and self._find(event.request, "denied") is None:
            self._expect(self.engine.expire(event.at_ns))
        if event.kind == "suspended":
            self.waiting.add(event.request)
        else:
            self.waiting.discard(event.request)
        self.decisions += 1
        self._match(event, event.request, event.kind, event.reason, event.figures)

    def _ask(self, event: Decided) -> None:
        self._report_unrecorded()  # a request is never made in the middle of another event
        request = Request(
            request_id=event.request,
            process=event.process,
            container=event.container,
            gpu=event.gpu,
            size_bytes=event.size_bytes,
            waitable=event.waitable,
            forced=event.forced,
            arrived_ns=event.arrived_ns,
            api=event.api,
        )
        self._expect(self.engine.request(request, event.at_ns))

    def _compare_start(self, event: StartDecided) -> None:
        kind = "admitted" if event.admitted else "not admitted"
        if event.reason == "wait_timeout" and self._find(event.container, kind) is None:
            self._expect(self.engine.expire(event.at_ns))
        self.decisions += 1
        self._match(event, event.container, kind, event.reason, {})

    def _match(self, event: Event, subject: str, kind: str, reason: str | None, figures: Mapping[str, int]) -> None:
        place = self._find(subject, kind)
        if place is None:
            others = [each.kind for each in self.expected if each.subject == subject]
            instead = f"{others[0]} instead" if others else "nothing of the kind"
            self._differ(event, f"recorded: request {subject} {kind}; the engine: {instead}")
            self.expected = [each for each in self.expected if each.subject != subject]
            return
        if place:
            first = self.expected[0]
            self._differ(event, f"request {subject} {kind}; the engine decides about request {first.subject} first")
        found = self.expected.pop(place)
        if found.reason != reason:
            self._differ(event, f"request {subject} {kind}: recorded for {reason}, the engine: {found.reason}")
        for name, recorded in figures.items():
            if found.figures.get(name) != recorded:
                computed = found.figures.get(name)
                self._differ(event, f"request {subject} {kind}: {name} is {computed}, recorded: {recorded}")

    def _find(self, subject: str, kind: str) -> int | None:
        places = (place for place, each in enumerate(self.expected) if (each.subject, each.kind) == (subject, kind))
        return next(places, None)

    def _differ(self, event: Event, message: str) -> None:
        self.differences.append(Difference(event.seq, message))

    def _report_unrecorded(self) -> None:
        self.differences += [
            Difference(0, f"the engine decides: request {each.subject} {each.kind}; not recorded")
            for each in self.expected
        ]
        self.expected.clear()


def _expected(decision: Decision) -> _Expected:
    match decision:
        case Admitted():
            return _Expected(decision.container, "admitted", None, {})
        case NotAdmitted():
            return _Expected(decision.container, "not admitted", str(decision.reason), {})
    figures = {}
    if decision.numbers is not None:
        figures = {f"{name}_bytes": size for name, size in decision.numbers._asdict().items()}
    subject = str(decision.request.request_id)
    match decision:
        case Granted():
            return _Expected(subject, "resumed" if decision.resumed else "granted", None, figures)
        case Denied():
            return _Expected(subject, "denied", str(decision.reason), figures)
        case Suspended():
            figures |= {"need_bytes": decision.need_bytes, "position": decision.position}
            return _Expected(subject, "suspended", None, figures)


def check(events: Iterable[Event]) -> CheckReport:
    """Give the engine all recorded events, and compare what it decides with what is recorded."""
    checker = _Checker()
    for event in events:
        checker.take(event)
    return CheckReport(checker.decisions, checker.daemons, tuple(checker.differences))
