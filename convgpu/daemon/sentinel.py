# SPDX-License-Identifier: Apache-2.0
"""Looks at ledger, witness and NVML at the same time, lets the core judge, and follows what it finds to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from convgpu.config.forms import AUTO
from convgpu.config.keys import LOG
from convgpu.config.layers import InForce
from convgpu.core.engine import Engine
from convgpu.core.findings import (
    Agreement,
    FindingKind,
    PageFigures,
    ProcessFigures,
    Suspicion,
    agreement,
    external,
    judge,
    suspicions,
)
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.status import FindingStatus
from convgpu.core.units import format_size
from convgpu.core.watch import Cleared, FindingKey, Raised, Watch
from convgpu.daemon.actions import Actions
from convgpu.daemon.capacity import Capacities
from convgpu.daemon.finding_log import SKIPPED, FindingLog
from convgpu.daemon.journal import Journal
from convgpu.daemon.observer import Observation, Observer
from convgpu.daemon.page import DeviceAccount
from convgpu.daemon.registry import GuardedProcess, Registry
from convgpu.daemon.state import StateFile
from convgpu.oci.labels import LABEL_LIMIT
from convgpu.sources import driver_files, procfs
from convgpu.sources.docker import ContainerFacts, ContainerSource
from convgpu.sources.nvml import Gpu

_WATCH_ALL: Final = "all"
_RUNNING: Final = ("running", "paused", "restarting")


class _PageLook(NamedTuple):
    """One process on one device, by its page and by the engine, at one moment."""

    account: DeviceAccount
    held_bytes: int


_PageLooks = Mapping[tuple[ProcessKey, GpuUuid], _PageLook]


class Sentinel:
    """Carries out the three-way check.

    Args:
        docker: Says what a container is that nobody guards.
        state: Keeps what was acted upon over a restart.
        spawn: Runs work in the background.
        clock: Monotonic nanoseconds.

    Attributes:
        strangers: Containers that are looked at and not guarded: those that hold GPU memory, where the configuration
            asks for them, and those whose labels asked for a limit that they could not be given.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        capacities: Capacities,
        observer: Observer,
        docker: ContainerSource,
        gpus: tuple[Gpu, ...],
        in_force: InForce,
        journal: Journal,
        state: StateFile,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._capacities = capacities
        self._observer = observer
        self._docker = docker
        self._gpus = gpus
        self._in_force = in_force
        self._log = FindingLog(journal, registry)
        self._state = state
        self._actions = Actions(docker, in_force, self._log, spawn)
        self._spawn = spawn
        self._clock = clock
        self._watch = Watch()
        self._agreed: dict[tuple[ProcessKey, GpuUuid], Agreement] = {}
        self._met: dict[ContainerId, ContainerFacts | None] = {}
        self._asking: set[ContainerId] = set()
        self._shown: dict[FindingKey, FindingStatus] = {}
        self.strangers: dict[ContainerId, ContainerFacts] = {}
        self._log.strangers = self.strangers

    @property
    def undecided(self) -> bool:
        """Whether another look is wanted soon."""
        return self._watch.undecided

    def findings(self) -> tuple[FindingStatus, ...]:
        """Return what is raised now, the gravest first."""
        order = list(FindingKind)
        raised = self._watch.findings
        keys = sorted(raised, key=lambda key: order.index(key.kind))
        return tuple(_with_figures(self._shown[key], raised[key]) for key in keys)

    async def look(self) -> Observation:
        """Look at everything once, and judge."""
        before = self._pages()
        seen = await self._observer.look()
        self._meet(seen)
        self._check(seen, before, self._pages())
        return seen

    def caught(self, process: GuardedProcess, gpu: GpuUuid, claimed_bytes: int) -> None:
        """A page had credit that nobody granted; that needs no second look."""
        suspicion = Suspicion(
            kind=FindingKind.TAMPERED,
            container=process.container,
            gpu=gpu,
            reason=f"the page had {format_size(claimed_bytes)} of credit, which nobody granted",
            processes=(process.key,),
            used_bytes=self._registry.used_bytes(process.container, gpu),
        )
        raised = self._watch.catch(suspicion, self._clock())
        if raised is not None:
            self._raise(raised)

    def changed(self, container: ContainerId) -> None:
        """Docker reports something of a container: what was known of it may be so no longer."""
        self._met.pop(container, None)

    def _pages(self) -> _PageLooks:
        return {
            (key, gpu): _PageLook(process.page.read(slot), self._engine.held(key, gpu))
            for key, process in self._registry.processes.items()
            for slot, gpu in enumerate(process.page.gpus)
        }

    def _meet(self, seen: Observation) -> None:
        """Know containers that nobody guards and whose processes were seen; those that are new, from the next look on.

        Docker may take its time, or be away: nobody waits for it here.
        """
        there = {container for container in seen.containers.values() if container is not None}
        for container in there - self._registry.containers.keys() - self._met.keys() - self._asking:
            self._asking.add(container)
            self._spawn(self._ask_docker(container))
        self._met = {container: facts for container, facts in self._met.items() if container in there}
        own_dir = str(self._in_force.config.paths.client_dir)
        of_all = self._in_force.config.watch == _WATCH_ALL
        strangers = {
            container: facts
            for container, facts in self._met.items()
            if facts is not None
            and container not in self._registry.containers
            and facts.state in _RUNNING
            and facts.client_dir in (None, own_dir)  # else another daemon of this machine guards it
            and (of_all or LABEL_LIMIT in facts.labels)
        }
        self._forget_all_but(strangers.keys() | self._registry.containers.keys())
        self.strangers.clear()
        self.strangers.update(strangers)

    async def _ask_docker(self, container: ContainerId) -> None:
        try:
            self._met[container] = await asyncio.to_thread(self._docker.inspect, container)
        finally:
            self._asking.discard(container)

    def _forget_all_but(self, there: set[ContainerId]) -> None:
        about = {key.container for key in self._watch.findings if key.container is not None}
        for container in about - there:
            for cleared in self._watch.forget(container, self._clock()):
                self._clear(cleared)

    def _check(self, seen: Observation, before: _PageLooks, after: _PageLooks) -> None:
        alive = set(self._registry.processes)
        found: list[Suspicion] = []
        for (container, gpu), processes in self._figures(seen, before, after).items():
            alive.update(process.key for process in processes)
            verdicts = [(process, judge(process, self._agreed.get((process.key, gpu)))) for process in processes]
            found += [
                suspicion
                for suspicion in suspicions(container, gpu, verdicts)
                if container in self._registry.containers or suspicion.kind is FindingKind.UNWRAPPED
            ]
            for process in processes:
                agreed = agreement(process)
                if agreed is not None:
                    self._agreed[process.key, gpu] = agreed
        self._agreed = {key: agreed for key, agreed in self._agreed.items() if key[0] in alive}
        found += self._external(seen)
        alive.update(key for suspicion in self._watch.findings.values() for key in suspicion.processes if _lives(key))
        for change in self._watch.note(found, alive, self._clock()):
            if isinstance(change, Raised):
                self._raise(change)
            else:
                self._clear(change)

    def _figures(
        self, seen: Observation, before: _PageLooks, after: _PageLooks
    ) -> dict[tuple[ContainerId, GpuUuid], list[ProcessFigures]]:
        """Return every process that has a page or holds anything, by container and device."""
        figures: dict[tuple[ContainerId, GpuUuid], list[ProcessFigures]] = {}
        with_page: set[tuple[int, GpuUuid]] = set()
        for (key, gpu), look in after.items():
            process = self._registry.processes[key]
            earlier = before.get((key, gpu))
            with_page.add((key.pid, gpu))
            figures.setdefault((process.container, gpu), []).append(
                ProcessFigures(
                    key=key,
                    page=self._page(process, gpu, look),
                    most_held_bytes=max(look.held_bytes, earlier.held_bytes if earlier is not None else 0),
                    at_rest=look == earlier,
                    witness_bytes=_witness_bytes(seen, key.pid, gpu),
                    witness_frees=seen.frees.get((key.pid, gpu), 0),
                    partial=key.pid in seen.partial,
                    nvml_bytes=_nvml_bytes(seen, key.pid, gpu),
                )
            )
        for pid, gpu, container in self._without_page(seen, with_page):
            with contextlib.suppress(procfs.ProcessGoneError):
                key = ProcessKey(pid, procfs.start_ticks(pid))
                figures.setdefault((container, gpu), []).append(
                    ProcessFigures(
                        key=key,
                        page=None,
                        witness_bytes=_witness_bytes(seen, pid, gpu),
                        partial=pid in seen.partial,
                        nvml_bytes=_nvml_bytes(seen, pid, gpu),
                    )
                )
        return {
            where: [_with_driver_file(process) for process in processes if process.page is not None or _runs(process)]
            for where, processes in figures.items()
        }

    @staticmethod
    def _page(process: GuardedProcess, gpu: GpuUuid, look: _PageLook) -> PageFigures:
        account = look.account
        return PageFigures(
            used_bytes=account.used_bytes,
            managed_bytes=account.managed_bytes,
            reserved_bytes=account.reserved_bytes,
            credit_bytes=account.credit_bytes,
            granted_bytes=account.granted_bytes,
            held_bytes=look.held_bytes,
            estimated=process.page.estimated,
            altered=process.page.altered(process.page.gpus.index(gpu)),
        )

    def _without_page(
        self, seen: Observation, with_page: set[tuple[int, GpuUuid]]
    ) -> Iterator[tuple[int, GpuUuid, ContainerId]]:
        """Find what holds memory in a container and has no page for the device it is on."""
        holding = {key for key, size_bytes in (seen.witness or {}).items() if size_bytes}
        for gpu, reading in seen.readings.items():
            holding |= {(pid, gpu) for pid, size_bytes in reading.process_bytes.items() if size_bytes}
        for pid, gpu in sorted(holding - with_page):
            container = seen.containers.get(pid)
            if container is not None and (container in self._registry.containers or container in self.strangers):
                yield pid, gpu, container

    def _external(self, seen: Observation) -> Iterator[Suspicion]:
        for gpu in self._gpus:
            if self._in_force.config.of_device(gpu.uuid, gpu.index).capacity != AUTO:
                continue
            capacity_bytes = self._engine.capacity(gpu.uuid)
            suspicion = external(
                gpu.uuid,
                assigned_bytes=capacity_bytes - self._engine.free_bytes(gpu.uuid),
                capacity_bytes=capacity_bytes,
                external_bytes=self._capacities.external(gpu.uuid) or 0,
            )
            if suspicion is not None:
                yield replace(suspicion, processes=self._outsiders(seen, gpu.uuid))

    def _outsiders(self, seen: Observation, gpu: GpuUuid) -> tuple[ProcessKey, ...]:
        reading = seen.readings.get(gpu)
        found = []
        for pid in () if reading is None else sorted(reading.process_bytes):
            if seen.containers.get(pid) not in self._registry.containers:
                with contextlib.suppress(procfs.ProcessGoneError):
                    found.append(ProcessKey(pid, procfs.start_ticks(pid)))
        return tuple(found)

    def _raise(self, raised: Raised) -> None:
        key, suspicion = raised.key, raised.suspicion
        action = self._in_force.config.action(key.kind)
        finding = FindingStatus(
            kind=key.kind,
            uuid=key.gpu,
            reason=suspicion.reason,
            pids=(),
            since=datetime.now(UTC).isoformat(timespec="milliseconds"),
            action=action,
            container_id=key.container,
            container_name=None if key.container is None else self._log.container(key.container)["name"],
        )
        self._shown[key] = finding
        self._log.raised(suspicion, action)
        if action == LOG:
            return
        if self._first_time(key):
            self._actions.begin(key, _with_figures(finding, suspicion))
        else:
            self._log.action(key, action, SKIPPED, "an earlier daemon has done what was to be done")

    def _first_time(self, key: FindingKey) -> bool:
        """Note that a finding is acted upon; False: it was before this daemon started."""
        if key.container is None:
            return True
        acted, name = self._state.container(key.container).acted, f"{key.kind}@{key.gpu}"
        if name in acted:
            return False
        acted.append(name)
        self._state.save()
        return True

    def _clear(self, cleared: Cleared) -> None:
        key = cleared.key
        self._shown.pop(key, None)
        self._log.cleared(cleared)
        name = f"{key.kind}@{key.gpu}"
        if key.container is not None and name in self._state.container(key.container).acted:
            self._state.container(key.container).acted.remove(name)
            self._state.save()


def _witness_bytes(seen: Observation, pid: int, gpu: GpuUuid) -> int | None:
    return None if seen.witness is None else seen.witness.get((pid, gpu), 0)


def _nvml_bytes(seen: Observation, pid: int, gpu: GpuUuid) -> int | None:
    """Return NVML's figure; None also where it does not list the process: that is not the same as 0."""
    reading = seen.readings.get(gpu)
    return None if reading is None else reading.process_bytes.get(pid)


def _lives(key: ProcessKey) -> bool:
    try:
        return procfs.start_ticks(key.pid) == key.start_ticks
    except procfs.ProcessGoneError:
        return False


def _runs(process: ProcessFigures) -> bool:
    """Tell whether a process without a page is there at all: of one that has ended, the witness still knows."""
    return bool(driver_files.running_threads(process.key.pid))


def _with_driver_file(process: ProcessFigures) -> ProcessFigures:
    if not process.only_the_witness_sees_more:
        return process
    return replace(process, has_driver_file=driver_files.has_driver_file(process.key.pid))


def _with_figures(finding: FindingStatus, suspicion: Suspicion) -> FindingStatus:
    return replace(
        finding,
        reason=suspicion.reason,
        pids=tuple(key.pid for key in suspicion.processes),
        used_bytes=suspicion.used_bytes,
        witness_bytes=suspicion.witness_bytes,
        nvml_bytes=suspicion.nvml_bytes,
        assigned_bytes=suspicion.assigned_bytes,
        capacity_bytes=suspicion.capacity_bytes,
        external_bytes=suspicion.external_bytes,
    )
