# SPDX-License-Identifier: Apache-2.0
"""Once a second: look at ledger, witness and NVML, write down what they saw and what was lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

from convgpu.config.layers import InForce
from convgpu.core.identity import ProcessKey
from convgpu.core.units import MIB
from convgpu.core.watch import LOOK_AGAIN_S
from convgpu.daemon.arbiter import Arbiter
from convgpu.daemon.journal import Journal
from convgpu.daemon.observer import Observer
from convgpu.daemon.overview import Overview
from convgpu.daemon.sentinel import Sentinel
from convgpu.daemon.settings import Settings
from convgpu.daemon.state import StateFile
from convgpu.daemon.tracer import Tracer
from convgpu.sources.witness import HARMLESS_LOSSES, WitnessEvent

_LARGE_EVENT_BYTES: Final = 64 * MIB
"""From this size a witnessed call has a record of its own; smaller ones are summed up for each round."""
_SNAPSHOT_ROUNDS: Final = 60
"""A full picture in the log so often that a reader can start in the middle (facts: changes plus snapshots)."""


class Reconciler:
    """The loop that looks around.

    Args:
        in_force: Says how long it is between two rounds.
    """

    def __init__(
        self,
        in_force: InForce,
        settings: Settings,
        overview: Overview,
        observer: Observer,
        sentinel: Sentinel,
        tracer: Tracer,
        journal: Journal,
        state: StateFile,
        arbiter: Arbiter,
    ) -> None:
        self._in_force = in_force
        self._settings = settings
        self._overview = overview
        self._observer = observer
        self._sentinel = sentinel
        self._tracer = tracer
        self._journal = journal
        self._state = state
        self._arbiter = arbiter
        self._rounds = 0
        self._undecided: tuple[str, ...] = ()
        self._estimating: set[ProcessKey] = set()

    async def run_forever(self) -> None:
        """Look around until cancelled; what is not decided is looked at again soon, without the rest of a round."""
        round_s = time.monotonic()
        while True:
            round_s += self._in_force.config.interval_s
            while (left_s := round_s - time.monotonic()) > 0 and not self._settings.interval_changed.is_set():
                wait_s = min(left_s, LOOK_AGAIN_S) if self._sentinel.undecided else left_s
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._settings.interval_changed.wait(), wait_s)
                if self._sentinel.undecided and round_s > time.monotonic():
                    await self._sentinel.look()
            self._settings.interval_changed.clear()
            round_s = time.monotonic()
            await self.round()

    async def round(self) -> None:
        """One look: waiters, events, losses, differences, and now and then the whole picture."""
        self._arbiter.sweep()
        events = await self._tracer.drain()
        self._write_events(events)
        for event in events:
            if event.kind == "exit":
                self._observer.ended(event.pid)
        await self._observer.forget_ended()
        status = await self._observer.status()
        seen = await self._sentinel.look()
        self._settings.note_outside(seen.readings.values())
        self._observer.prune(seen.containers)
        snapshot = self._overview.snapshot(seen, status, self._journal.head)
        self._write_losses(status.lost)
        self._write_undecided(snapshot.undecided)
        self._write_estimates()
        self._rounds += 1
        if self._rounds % _SNAPSHOT_ROUNDS == 1 and snapshot.containers:
            for container in snapshot.containers:
                for device in container.devices:
                    self._journal.snapshot(container.container_id, device)

    def _write_events(self, events: Iterable[WitnessEvent]) -> None:
        small: dict[tuple[int, str, str], list[WitnessEvent]] = {}
        for event in events:
            if event.kind == "exit":
                continue
            if event.size_bytes >= _LARGE_EVENT_BYTES or event.kind == "fail":
                self._journal.witnessed(event)
            else:
                small.setdefault((event.pid, event.source, event.kind), []).append(event)
        for group in small.values():
            self._journal.witnessed_many(group, int(self._in_force.config.interval_s * 1e9))

    def _write_losses(self, lost: dict[str, int]) -> None:
        before = self._state.state.witness_lost
        for kind, count in lost.items():
            new = count - before.get(kind, 0)
            if new > 0:
                affected = "balances are not affected" if kind in HARMLESS_LOSSES else "a balance lacks something"
                self._journal.write("loss", reason=f"witness: {kind}; {affected}", count=new)
        if lost:
            self._state.state.witness_lost = dict(lost)
            self._state.save()

    def _write_estimates(self) -> None:
        """Once for each process: its figures stay estimates until it ends."""
        estimating = {process.key: process for process in self._overview.estimating()}
        for key in estimating.keys() - self._estimating:
            self._journal.estimated(estimating[key])
        self._estimating = set(estimating)

    def _write_undecided(self, undecided: tuple[str, ...]) -> None:
        """Say what cannot be found out, whenever that changes."""
        if undecided != self._undecided:
            self._undecided = undecided
            text = f"the three-way check: {'; '.join(undecided) or 'everything can be decided'}"
            self._journal.write("reconcile", text, reason=text)
