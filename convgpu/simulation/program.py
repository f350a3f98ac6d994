# SPDX-License-Identifier: Apache-2.0
"""One process of a recording: what it did, each step put after the answers that it had by then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from convgpu.core.identity import GpuUuid
from convgpu.simulation.events import Decided
from convgpu.simulation.workload import Ask, End, Outcome, Process, Release, Step, Withdraw

_OF_EARLIER: Final = "/earlier"
"""Marks the id of a request that was asked of an earlier daemon."""


@dataclass(slots=True, eq=False)
class Pending:
    """A request without an answer so far: where its ask stands among the steps, and its number."""

    place: int
    number: int
    gpu: GpuUuid
    size_bytes: int


@dataclass(slots=True, eq=False)
class Program:
    """What one process did so far.

    Attributes:
        after: How many processes of its container had ended before it started.
        delay_ns: From the last of these ends, or the container's start, to its start.
        anchor_ns: The last of the answers that the steps so far depend on; before any, its start.
        answered: Numbers of asks answered since the last step, and `answered_ns`, when the last of them was.
        lost_ns: Since when it is not known whether it still runs: a daemon has started and not found it.
    """

    after: int
    delay_ns: int
    anchor_ns: int
    adopted: dict[GpuUuid, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    asks: int = 0
    pending: dict[str, Pending] = field(default_factory=dict)
    answered: list[int] = field(default_factory=list)
    answered_ns: int = 0
    held: dict[GpuUuid, int] = field(default_factory=dict)
    lost_ns: int | None = None

    def place_step(self, at_ns: int) -> tuple[int, tuple[int, ...]]:
        """Return delay and dependencies of a step at this time."""
        if self.answered:
            self.anchor_ns = max(self.anchor_ns, self.answered_ns)
        after, self.answered = tuple(self.answered), []
        return max(0, at_ns - self.anchor_ns), after

    def hold(self, gpu: GpuUuid, change_bytes: int) -> None:
        """It holds more, or less if below zero."""
        self.held[gpu] = self.held.get(gpu, 0) + change_bytes

    def ask(self, event: Decided) -> None:
        """A request begins."""
        delay_ns, after = self.place_step(event.at_ns)
        self.pending[event.request] = Pending(len(self.steps), self.asks, event.gpu, event.size_bytes)
        self.asks += 1
        self.steps.append(
            Ask(
                delay_ns,
                event.gpu,
                event.size_bytes,
                after,
                outcome=Outcome.UNANSWERED,
                waitable=event.waitable,
                forced=event.forced,
                label=event.request,
            )
        )

    def answer(self, request: str, outcome: Outcome, at_ns: int) -> None:
        """A request is over."""
        pending = self.pending.pop(request)
        ask = self.steps[pending.place]
        assert isinstance(ask, Ask)  # noqa: S101  # `place` is an ask's
        self.steps[pending.place] = replace(ask, outcome=outcome)
        self.answered.append(pending.number)
        self.answered_ns = at_ns
        if outcome is Outcome.GRANTED:
            self.hold(pending.gpu, pending.size_bytes)

    def release(self, gpu: GpuUuid, size_bytes: int, at_ns: int) -> None:
        """It gives memory back."""
        delay_ns, after = self.place_step(at_ns)
        self.steps.append(Release(delay_ns, gpu, size_bytes, after))
        self.hold(gpu, -size_bytes)

    def correct(self, gpu: GpuUuid, held_bytes: int, at_ns: int) -> None:
        """A new daemon finds it holding something else than the log says: the last moments of the old one are lost."""
        more_bytes = held_bytes - self.held.get(gpu, 0)
        if more_bytes > 0:
            delay_ns, after = self.place_step(at_ns)
            self.steps.append(Ask(delay_ns, gpu, more_bytes, after, outcome=Outcome.UNANSWERED, forced=True))
            self.asks += 1
            self.hold(gpu, more_bytes)
        elif more_bytes < 0:
            self.release(gpu, -more_bytes, at_ns)

    def end(self, at_ns: int) -> None:
        """It ends."""
        delay_ns, after = self.place_step(at_ns)
        self.steps.append(End(delay_ns, after))

    def withdraw(self, request: str, at_ns: int) -> None:
        """It gives up waiting for an answer."""
        delay_ns, after = self.place_step(at_ns)
        self.steps.append(Withdraw(delay_ns, self.pending.pop(request).number, after))

    def forget_answers(self, at_ns: int) -> None:
        """Its daemon is gone: it may ask the next one again, whose ids begin anew."""
        self.lost_ns = at_ns
        self.pending = {f"{name}{_OF_EARLIER}": pending for name, pending in self.pending.items()}

    def asked_before(self, gpu: GpuUuid, size_bytes: int) -> str | None:
        """The request of an earlier daemon that this would be, asked again."""
        for name, pending in self.pending.items():
            if name.endswith(_OF_EARLIER) and (pending.gpu, pending.size_bytes) == (gpu, size_bytes):
                return name
        return None

    def process(self) -> Process:
        """All of it, as a workload has it."""
        return Process(tuple(self.steps), self.after, self.delay_ns, self.adopted)
