# SPDX-License-Identifier: Apache-2.0
"""Hands the witness's events to those who trace, while they happen; a reader that is too slow loses some, counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from convgpu.audit.clock import format_timestamp
from convgpu.core.identity import ContainerId
from convgpu.core.trace import TraceBatch, TraceEvent, TraceFilter
from convgpu.daemon.observer import Observer
from convgpu.daemon.registry import Registry
from convgpu.daemon.sizes import Sizes
from convgpu.errors import EnvironmentMissingError
from convgpu.sources import cgroup, procfs
from convgpu.sources.docker import ContainerFacts
from convgpu.sources.nvml import Gpu
from convgpu.sources.stacks import Stacks
from convgpu.sources.witness import WitnessEvent

DRAIN_S: Final = 0.1
"""Between two looks into the kernel's ring while somebody traces: what a person takes for at once."""
_STACKS_DRAIN_S: Final = 0.02
"""The same while somebody wants stacks: names are found as long as the process is there."""
_HEARTBEAT_S: Final = 1.0
_BATCH_EVENTS: Final = 512
_STACKS_FULL: Final = "stacks_full"
_LEASE_S: Final = 3.0
"""For so long stacks are wanted each second anew: each costs its call a microsecond or so."""
WAITING_EVENTS: Final = 16384
"""What may wait for one reader: a tenth of a second at 160,000 events a second, some 10 MB."""


class _Reader:
    """One who traces."""

    def __init__(self, wanted: TraceFilter) -> None:
        self.wanted = wanted
        self.since_ns = time.monotonic_ns()
        self.waiting: deque[tuple[WitnessEvent, ContainerId | None]] = deque()
        self.lost = 0
        self.arrived = asyncio.Event()
        self.arrived.set()  # the first batch says at once that it has begun

    def offer(self, events: Iterable[tuple[WitnessEvent, ContainerId | None]]) -> None:
        for event, container in events:
            # What happened before may not have been drained yet, as nobody traced.
            if event.mono_ns < self.since_ns or not self.wanted.wants(event.kind, event.size_bytes, container):
                continue
            if len(self.waiting) >= WAITING_EVENTS:
                self.lost += 1
            else:
                self.waiting.append((event, container))
            self.arrived.set()


class Tracer:
    """Drains the witness, for the rounds and for those who trace.

    Args:
        observer: The door to the witness.
        registry: Names of guarded containers.
        strangers: Containers that are looked at and not guarded.
        gpus: Indices of devices.
        spawn: Runs work in the background.

    Attributes:
        sizes: How large each container's allocations were.
    """

    def __init__(
        self,
        observer: Observer,
        registry: Registry,
        strangers: Mapping[ContainerId, ContainerFacts],
        gpus: tuple[Gpu, ...],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._observer = observer
        self._registry = registry
        self._strangers = strangers
        self._indices = {gpu.uuid: gpu.index for gpu in gpus}
        self._spawn = spawn
        self._readers: set[_Reader] = set()
        self._held: list[WitnessEvent] = []
        self._pumping = False
        self._lost: dict[str, int] = {}
        self._asked_s = 0.0
        self._stacks = Stacks()
        self._looking, self._naming = asyncio.Lock(), asyncio.Lock()
        self._leased_s = 0.0
        self.sizes = Sizes()

    async def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call, whoever has seen them meanwhile."""
        await self._take()
        events, self._held = self._held, []
        return events

    async def stream(self, wanted: TraceFilter) -> AsyncGenerator[TraceBatch, None]:
        """Tell what happens from now on, batch by batch, an empty one each second where nothing does.

        Raises:
            EnvironmentMissingError: No witness runs.
        """
        status = await self._observer.status()
        if not status.running:
            raise EnvironmentMissingError(
                f"there is nothing to trace: no witness runs ({status.reason})", next_step="run `convgpu doctor`"
            )
        self._lost = before = dict(status.lost)
        reader = _Reader(wanted)
        self._readers.add(reader)
        await self._want_stacks()
        if not self._pumping:
            self._pumping = True
            self._spawn(self._pump())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.arrived.wait(), _HEARTBEAT_S)
                reader.arrived.clear()
                lost = await self._lost_in_the_kernel()
                batch = await self._batch(reader, before, lost)
                before = lost
                if reader.waiting:
                    reader.arrived.set()
                yield batch
        finally:
            self._readers.discard(reader)

    async def _pump(self) -> None:
        try:
            while self._readers:
                await asyncio.sleep(_STACKS_DRAIN_S if self._are_stacks_wanted else DRAIN_S)
                await self._want_stacks()
                await self._take()
        finally:
            self._pumping = False
            async with self._looking:
                self._stacks.close()

    @property
    def _are_stacks_wanted(self) -> bool:
        return any(reader.wanted.stacks for reader in self._readers)

    async def _want_stacks(self) -> None:
        """Say each second anew that stacks are wanted, while they are."""
        now_s = time.monotonic()
        if self._are_stacks_wanted and now_s - self._leased_s >= _HEARTBEAT_S:
            self._leased_s = now_s
            await self._observer.want_stacks(_LEASE_S)

    async def _lost_in_the_kernel(self) -> dict[str, int]:
        """Return what the kernel had no room for, ever; asked for once a second."""
        now_s = time.monotonic()
        if now_s - self._asked_s >= _HEARTBEAT_S:
            self._asked_s = now_s
            self._lost = dict((await self._observer.status()).lost)
        return self._lost

    async def _take(self) -> None:
        events = await self._observer.drain()
        self._held += events
        self.sizes.note(events, self._container_of)
        if not self._readers or not events:
            return
        containers: dict[int, ContainerId | None] = {}
        located = []
        for event in events:
            if event.cgroup_id not in containers:
                containers[event.cgroup_id] = self._container_of(event)
            located.append((event, containers[event.cgroup_id]))
        stacks = [(event.pid, event.stack) for event in events if event.stack]
        if stacks and self._are_stacks_wanted:  # quickly, while the processes are there; names may take their time
            async with self._looking:
                await asyncio.to_thread(self._stacks.look_at, stacks)
        for reader in self._readers:
            reader.offer(located)

    def _container_of(self, event: WitnessEvent) -> ContainerId | None:
        """Find the container of an event's cgroup: one that is known, or the one that the process says it is in."""
        guarded = self._registry.of_cgroup(event.cgroup_id)
        if guarded is not None:
            return guarded.container_id
        with contextlib.suppress(procfs.ProcessGoneError):
            return cgroup.container_of(event.pid)
        return None

    async def _batch(self, reader: _Reader, before: Mapping[str, int], now: Mapping[str, int]) -> TraceBatch:
        lost, reader.lost = reader.lost, 0
        count = min(len(reader.waiting), _BATCH_EVENTS)
        # One offset for the batch: events keep the distances that the kernel measured.
        offset_ns = time.time_ns() - time.monotonic_ns()
        waiting = [reader.waiting.popleft() for _ in range(count)]
        stacks: list[tuple[str, ...] | None] = [None] * count
        if reader.wanted.stacks and waiting:
            async with self._naming:
                stacks = await asyncio.to_thread(self._named, [event for event, _ in waiting])
        events = tuple(self._event(*each, offset_ns, stack) for each, stack in zip(waiting, stacks, strict=True))
        more = {kind: count - before.get(kind, 0) for kind, count in now.items()}
        stacks_lost = more.pop(_STACKS_FULL, 0)
        return TraceBatch(
            events=events,
            lost=lost,
            witness_lost=max(0, sum(more.values())),
            stacks_lost=stacks_lost if reader.wanted.stacks else 0,
        )

    def _named(self, events: Iterable[WitnessEvent]) -> list[tuple[str, ...] | None]:
        return [self._stacks.frames(event.pid, event.stack) for event in events]

    def _event(
        self, event: WitnessEvent, container: ContainerId | None, offset_ns: int, stack: tuple[str, ...] | None
    ) -> TraceEvent:
        gpu = self._observer.gpu_of_instance(event.device_instance) if event.source == "boundary" else None
        return TraceEvent(
            ts=format_timestamp(event.mono_ns + offset_ns),
            mono_ns=event.mono_ns,
            container_id=container,
            container_name=None if container is None else self.name_of(container),
            pid=event.pid,
            tid=event.tid,
            comm=event.comm,
            source=event.source,
            api=event.api,
            kind=event.kind,
            size_bytes=event.size_bytes,
            latency_ns=event.latency_ns,
            gpu=None if gpu is None else self._indices.get(gpu),
            stack=stack,
        )

    def stranger_called(self, text: str) -> ContainerId | None:
        """Return the container of this name or id that is looked at and not guarded."""
        return next((each for each, facts in self._strangers.items() if text in (each, facts.name)), None)

    def name_of(self, container: ContainerId) -> str:
        """Return the name of a container, guarded or not, gone or not; the short id of one that is not known."""
        guarded = self._registry.of_id(container)
        if guarded is not None:
            return guarded.name
        facts = self._strangers.get(container)
        return container[:12] if facts is None else facts.name
