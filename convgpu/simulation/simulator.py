# SPDX-License-Identifier: Apache-2.0
"""Runs a workload through the engine in virtual time: a heap of what happens when, and the engine's answers.

What happens at the same time happens in the order in which it was planned. Nothing here decides about memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from convgpu.core.decision import Admitted, Decision, Denied, Granted, NotAdmitted, RequestDecision, Suspended
from convgpu.core.identity import GpuUuid, ProcessKey
from convgpu.core.request import Request
from convgpu.errors import QuotaRefusedError
from convgpu.simulation import judge
from convgpu.simulation.meter import Meter, Stay
from convgpu.simulation.result import Result, Settings
from convgpu.simulation.workload import (
    Ask,
    CapacityChange,
    Container,
    End,
    GroupsChange,
    Outcome,
    Process,
    QuotaChange,
    Release,
    Step,
    Withdraw,
    Workload,
)

_API = "simulated"


@dataclass(slots=True, eq=False)
class _Life:
    """A container that runs.

    Attributes:
        admitted: Its start waits no more.
        next_process: Number of the process to be started next.
        ended: Processes that have ended.
    """

    container: Container
    stay: Stay
    admitted: bool = False
    next_process: int = 0
    ended: int = 0
    failed: bool = False


@dataclass(slots=True, eq=False)
class _Run:
    """A process that runs.

    Attributes:
        next_step: Number of the step to be done next.
        planned: Whether it is in the heap.
        anchor_ns: The last of the answers that the steps so far depend on.
        asks: Ids of its asks, by number.
        answers: When its asks were answered, by number, those that `anchor_ns` has not taken in yet.
        waits: Those of its asks that wait, by number: device, and the meter's number.
    """

    life: _Life
    key: ProcessKey
    steps: tuple[Step, ...]
    anchor_ns: int
    next_step: int = 0
    planned: bool = False
    ended: bool = False
    held: dict[GpuUuid, int] = field(default_factory=dict)
    asks: list[int] = field(default_factory=list)
    answers: dict[int, int] = field(default_factory=dict)
    waits: dict[int, tuple[GpuUuid, int]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Asked:
    """An ask that is not answered."""

    run: _Run
    number: int
    ask: Ask


class Simulation:
    """One run of one workload.

    Args:
        workload: What happens.
        settings: How the engine decides.
        keep_timeline: Whether the result shall say how memory was used over time.
        on_end: Called whenever a container is over.
        on_decision: Called with every decision about an ask and its label, in the order of the engine.

    Raises:
        UsageError: No such algorithm.
    """

    def __init__(
        self,
        workload: Workload,
        settings: Settings,
        *,
        keep_timeline: bool = False,
        on_end: Callable[[], None] | None = None,
        on_decision: Callable[[RequestDecision, str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._engine = judge.make_engine(workload.devices, settings, workload.group_limits)
        self._meter = Meter(workload.devices, self._engine.free_bytes, keep_timeline=keep_timeline)
        self._on_end = on_end
        self._on_decision = on_decision
        self._now_ns = 0
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._planned = count()
        self._lives: dict[str, _Life] = {}
        self._asked: dict[int, _Asked] = {}
        self._request_ids = count(1)
        self._pids = count(1)
        self._decisions: deque[Decision] = deque()
        self._deadline_ns: int | None = None
        self._has_deadlines = any(container.wait_ns is not None for container in workload.containers)
        for container in workload.containers:
            self._plan(container.arrival_ns, self._arrive, container)
        for quota_change in workload.quota_changes:
            self._plan(quota_change.at_ns, self._change_quota, quota_change)
        for capacity_change in workload.capacity_changes:
            self._plan(capacity_change.at_ns, self._change_capacity, capacity_change)
        for group_change in workload.group_changes:
            self._plan(group_change.at_ns, self._change_groups, group_change)

    def run(self) -> Result:
        """Let everything happen, until nothing more can."""
        while self._heap:
            at_ns, _, act, subject = heappop(self._heap)
            if at_ns != self._now_ns:
                self._meter.move_to(at_ns)
                self._now_ns = at_ns
            act(subject)
            if self._has_deadlines:
                self._plan_deadline()
        return Result(
            settings=self._settings,
            summary=self._meter.summary(),
            devices=self._meter.devices(),
            containers=self._meter.containers(),
            timelines=self._meter.timelines(),
        )

    def _plan(self, at_ns: int, act: Callable[[Any], None], subject: object) -> None:
        heappush(self._heap, (at_ns, next(self._planned), act, subject))

    # Containers and processes.

    def _arrive(self, container: Container) -> None:
        life = _Life(container, self._meter.arrived(container))
        admit_wait = (container.admit_wait or self._settings.admit == "wait") and container.carried is None
        try:
            decisions = judge.start(self._engine, container, self._now_ns, admit_wait=admit_wait)
        except QuotaRefusedError:
            self._over(life.stay, "refused")
            return
        self._lives[container.container_id] = life
        self._carry_out(decisions)
        if not admit_wait:
            self._go_on(life)
        elif not life.admitted:
            self._meter.pause(life.stay)
            if container.gives_up_ns is not None:
                self._plan(self._now_ns + container.gives_up_ns, self._give_up, life)

    def _give_up(self, life: _Life) -> None:
        if not life.admitted:
            self._carry_out(self._engine.end_container(life.container.container_id, self._now_ns))

    def _tell_start(self, decision: Admitted | NotAdmitted) -> None:
        life = self._lives[decision.container]
        life.admitted = True
        if decision.waited_ns:
            self._meter.go_on(life.stay)
        if isinstance(decision, Admitted):
            self._go_on(life)
        else:
            self._meter.denied(decision.reason)
            life.failed = True
            self._end_container(life)

    def _go_on(self, life: _Life) -> None:
        """Plan what comes when as many processes have ended as now: others begin, or the container ends."""
        processes = life.container.processes
        while life.next_process < len(processes) and processes[life.next_process].after <= life.ended:
            process = processes[life.next_process]
            life.next_process += 1
            self._plan(self._now_ns + process.delay_ns, self._start_process, (life, process))
        if life.ended == len(processes):
            self._plan(self._now_ns + life.container.end_delay_ns, self._end_container, life)

    def _start_process(self, which: tuple[_Life, Process]) -> None:
        life, process = which
        run = _Run(life, ProcessKey(next(self._pids), 0), process.steps, self._now_ns)
        self._engine.start_process(run.key, life.container.container_id)
        for gpu, size_bytes in process.adopted.items():
            self._engine.adopt(run.key, gpu, size_bytes)
            self._hold(run, gpu, size_bytes)
        self._plan_step(run)

    def _end_process(self, run: _Run) -> None:
        run.ended = True
        life = run.life
        for number in tuple(run.waits):
            self._stop_waiting(run, number)
        for gpu, size_bytes in run.held.items():
            self._meter.held(gpu, -size_bytes)
        for request_id in run.asks:
            self._asked.pop(request_id, None)
        self._carry_out(self._engine.end_process(run.key, life.container.container_id, self._now_ns))
        life.ended += 1
        self._go_on(life)

    def _end_container(self, life: _Life) -> None:
        del self._lives[life.container.container_id]
        self._carry_out(self._engine.end_container(life.container.container_id, self._now_ns))
        self._over(life.stay, "failed" if life.failed else "completed")

    def _over(self, stay: Stay, outcome: str) -> None:
        self._meter.left(stay, outcome)
        if self._on_end is not None:
            self._on_end()

    def _change_quota(self, change: QuotaChange) -> None:
        if change.container_id not in self._lives:
            self._meter.deviations += 1
            return
        try:
            decisions = self._engine.set_quota(change.container_id, change.gpu, change.quota, self._now_ns)
        except QuotaRefusedError:
            self._meter.deviations += 1
            return
        self._carry_out(decisions)

    def _change_capacity(self, change: CapacityChange) -> None:
        self._meter.set_capacity(change.gpu, change.capacity_bytes)
        self._carry_out(self._engine.set_capacity(change.gpu, change.capacity_bytes, self._now_ns))

    def _change_groups(self, change: GroupsChange) -> None:
        try:
            decisions = self._engine.set_group_limits(change.limits, self._now_ns)
        except QuotaRefusedError:
            self._meter.deviations += 1
            return
        self._carry_out(decisions)

    # Steps.

    def _plan_step(self, run: _Run) -> None:
        """Plan the next step, if all that it depends on is answered."""
        if run.planned or run.ended:
            return
        step = run.steps[run.next_step]
        for number in step.after:
            if number not in run.answers:
                return
        for number in step.after:
            run.anchor_ns = max(run.anchor_ns, run.answers.pop(number))
        run.planned = True
        self._plan(max(self._now_ns, run.anchor_ns + step.delay_ns), self._do_step, run)

    def _do_step(self, run: _Run) -> None:
        if run.ended:
            return  # one of its requests was denied meanwhile
        run.planned = False
        step = run.steps[run.next_step]
        run.next_step += 1
        match step:
            case Ask():
                self._ask(run, step)
            case Release():
                self._release(run, step.gpu, step.size_bytes)
            case Withdraw():
                if step.ask in run.waits:
                    self._stop_waiting(run, step.ask)
                    del self._asked[run.asks[step.ask]]
                    self._carry_out(self._engine.cancel(run.asks[step.ask], self._now_ns))
            case End():
                self._end_process(run)
        self._plan_step(run)

    def _ask(self, run: _Run, ask: Ask) -> None:
        request_id = next(self._request_ids)
        self._asked[request_id] = _Asked(run, len(run.asks), ask)
        run.asks.append(request_id)
        request = Request(
            request_id=request_id,
            process=run.key,
            container=run.life.container.container_id,
            gpu=ask.gpu,
            size_bytes=ask.size_bytes,
            waitable=ask.waitable,
            forced=ask.forced,
            arrived_ns=self._now_ns,
            api=_API,
        )
        self._carry_out(self._engine.request(request, self._now_ns))

    def _release(self, run: _Run, gpu: GpuUuid, size_bytes: int) -> None:
        held_bytes = run.held.get(gpu, 0)
        if size_bytes > held_bytes:
            self._meter.deviations += 1  # a recording with gaps: it gave back what it was never seen to take
            size_bytes = held_bytes
        if size_bytes:
            self._hold(run, gpu, -size_bytes)
            self._carry_out(self._engine.release(run.key, gpu, size_bytes, self._now_ns))

    def _hold(self, run: _Run, gpu: GpuUuid, change_bytes: int) -> None:
        run.held[gpu] = run.held.get(gpu, 0) + change_bytes
        self._meter.held(gpu, change_bytes)

    # Decisions.

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        """Tell the processes; what they do at once, such as ending, brings more decisions, which come after."""
        busy = bool(self._decisions)
        self._decisions.extend(decisions)
        if busy:
            return
        while self._decisions:
            self._tell(self._decisions[0])
            self._decisions.popleft()

    def _tell(self, decision: Decision) -> None:
        if isinstance(decision, Admitted | NotAdmitted):
            self._tell_start(decision)
            return
        asked = self._asked.get(int(decision.request.request_id))
        if asked is None:
            return  # its process has ended because of an earlier decision
        if self._on_decision is not None:
            self._on_decision(decision, asked.ask.label)
        run = asked.run
        if isinstance(decision, Suspended):
            gpu = decision.request.gpu
            run.waits[asked.number] = (gpu, self._meter.suspended(run.life.stay, gpu))
            return
        del self._asked[int(decision.request.request_id)]
        if asked.number in run.waits:
            self._stop_waiting(run, asked.number)
        if isinstance(decision, Granted):
            self._hold(run, decision.request.gpu, decision.request.size_bytes)
            if asked.ask.outcome is Outcome.DENIED:
                self._meter.deviations += 1
                self._release(run, decision.request.gpu, decision.request.size_bytes)
        elif not self._goes_on(run, asked.ask, decision):
            return
        run.answers[asked.number] = self._now_ns
        self._plan_step(run)

    def _goes_on(self, run: _Run, ask: Ask, decision: Denied) -> bool:
        """A request is denied: a process that has not been seen to get over that ends."""
        self._meter.denied(decision.reason)
        if ask.outcome is not Outcome.GRANTED:
            return True
        run.life.failed = True
        self._end_process(run)
        return False

    def _stop_waiting(self, run: _Run, number: int) -> None:
        gpu, meter_number = run.waits.pop(number)
        self._meter.waited(run.life.stay, gpu, meter_number)

    def _plan_deadline(self) -> None:
        deadline_ns = self._engine.next_deadline_ns()
        if deadline_ns is not None and (self._deadline_ns is None or deadline_ns < self._deadline_ns):
            self._deadline_ns = deadline_ns
            self._plan(max(self._now_ns, deadline_ns), self._expire, None)

    def _expire(self, _: None) -> None:
        self._deadline_ns = None
        self._carry_out(self._engine.expire(self._now_ns))


def simulate(workload: Workload, settings: Settings, *, keep_timeline: bool = False) -> Result:
    """Run a workload.

    Raises:
        UsageError: No such algorithm.
    """
    return Simulation(workload, settings, keep_timeline=keep_timeline).run()
