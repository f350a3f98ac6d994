# SPDX-License-Identifier: Apache-2.0
"""Builds the snapshot that `convgpu ps`, the monitor and scripts see: ledger, witness and NVML side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from convgpu import __version__
from convgpu.audit.chain import Head
from convgpu.config.layers import InForce
from convgpu.core.engine import Engine
from convgpu.core.findings import undecided
from convgpu.core.identity import ContainerId
from convgpu.core.status import (
    ContainerStatus,
    DeviceUsage,
    FindingStatus,
    GpuStatus,
    ProcessStatus,
    Snapshot,
    WitnessStatus,
)
from convgpu.daemon.capacity import Capacities
from convgpu.daemon.groups import Groups
from convgpu.daemon.observer import Observation
from convgpu.daemon.registry import GuardedContainer, GuardedProcess, Registry
from convgpu.daemon.sentinel import Sentinel
from convgpu.daemon.waiting import WaitingList
from convgpu.sources import procfs
from convgpu.sources.docker import ContainerFacts
from convgpu.sources.nvml import Gpu

_NS_PER_MS = 1_000_000


class Overview:
    """Joins registry, engine and an observation into one immutable snapshot.

    Attributes:
        waiting: Who waits.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        gpus: tuple[Gpu, ...],
        *,
        in_force: InForce,
        capacities: Capacities,
        groups: Groups,
        sentinel: Sentinel,
        driver: str | None,
        audit_path: str,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._gpus = gpus
        self._in_force = in_force
        self._capacities = capacities
        self._groups = groups
        self._sentinel = sentinel
        self._driver = driver
        self._audit_path = audit_path
        self._clock = clock
        self.waiting = WaitingList(engine, registry, gpus, clock)

    def snapshot(self, seen: Observation, witness: WitnessStatus, audit_head: Head) -> Snapshot:
        """Return everything as it is now."""
        now_ns = self._clock()
        containers = sorted(self._registry.containers.values(), key=lambda guarded: guarded.facts.created_ns)
        findings = self._sentinel.findings()
        strangers = sorted(self._sentinel.strangers.items(), key=lambda item: item[1].created_ns)
        return Snapshot(
            taken_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            version=__version__,
            simulated=self._in_force.config.simulated,
            driver=self._driver,
            algorithm=self._in_force.config.algorithm,
            gpus=tuple(self._gpu(gpu, seen, findings) for gpu in self._gpus),
            containers=(
                *(self._container(guarded, seen, now_ns, findings) for guarded in containers),
                *(self._stranger(container, facts, seen, findings) for container, facts in strangers),
            ),
            queue=self.waiting.entries(),
            witness=witness,
            audit_path=self._audit_path,
            audit_seq=audit_head.seq,
            audit_head=audit_head.hash,
            undecided=self._undecided(seen, witness),
            groups=self._groups.all(),
        )

    def _undecided(self, seen: Observation, witness: WitnessStatus) -> tuple[str, ...]:
        silent = [
            gpu.index
            for gpu in self._gpus
            if (reading := seen.readings.get(gpu.uuid)) is None or None in reading.process_bytes.values()
        ]
        reason = None if witness.running else witness.reason or "it does not run"
        return undecided(
            witness=reason, silent_gpus=silent, partial=len(seen.partial), estimating=len(self.estimating())
        )

    def estimating(self) -> list[GuardedProcess]:
        """Return the processes whose ledger is an estimate."""
        return [process for process in self._registry.processes.values() if process.page.estimated]

    def _gpu(self, gpu: Gpu, seen: Observation, findings: Iterable[FindingStatus]) -> GpuStatus:
        reading = seen.readings.get(gpu.uuid)
        capacity_bytes = self._engine.capacity(gpu.uuid)
        return GpuStatus(
            uuid=gpu.uuid,
            index=gpu.index,
            name=gpu.name,
            total_bytes=gpu.total_bytes,
            capacity_bytes=capacity_bytes,
            assigned_bytes=capacity_bytes - self._engine.free_bytes(gpu.uuid),
            used_bytes=reading.used_bytes if reading else None,
            utilization_percent=reading.utilization_percent if reading else None,
            temperature_c=reading.temperature_c if reading else None,
            external_bytes=self._capacities.external(gpu.uuid),
            findings=tuple(each for each in findings if each.container_id is None and each.uuid == gpu.uuid),
        )

    def _container(
        self, guarded: GuardedContainer, seen: Observation, now_ns: int, findings: Iterable[FindingStatus]
    ) -> ContainerStatus:
        devices = tuple(self._device(guarded, gpu, seen, now_ns) for gpu in guarded.gpus)
        totals: dict[int, ProcessStatus] = {}
        for device in devices:
            for process in device.processes:
                before = totals.get(process.pid)
                totals[process.pid] = process if before is None else _sum(before, process)
        return ContainerStatus(
            container_id=guarded.container_id,
            name=guarded.name,
            image=guarded.facts.image,
            state=guarded.facts.state,
            devices=devices,
            processes=tuple(totals[pid] for pid in sorted(totals)),
            findings=tuple(each for each in findings if each.container_id == guarded.container_id),
            group=guarded.group,
        )

    def _stranger(
        self,
        container: ContainerId,
        facts: ContainerFacts,
        seen: Observation,
        findings: Iterable[FindingStatus],
    ) -> ContainerStatus:
        """Show a container that nobody guards: there is no ledger, so what witness and NVML see is all."""
        pids = sorted(seen.pids_of(container))
        devices = []
        for gpu in self._gpus:
            figures = (seen.witness_bytes(gpu.uuid, pids), seen.nvml_bytes(gpu.uuid, pids))
            if any(figures):
                devices.append(_unguarded(gpu, *figures, _processes(seen, gpu, pids)))
        return ContainerStatus(
            container_id=container,
            name=facts.name,
            image=facts.image,
            state=facts.state,
            devices=tuple(devices),
            processes=_processes(seen, None, pids),
            guarded=False,
            findings=tuple(each for each in findings if each.container_id == container),
        )

    def _device(self, guarded: GuardedContainer, gpu: Gpu, seen: Observation, now_ns: int) -> DeviceUsage:
        account = self._engine.account(guarded.container_id, gpu.uuid, now_ns)
        ledger: dict[int, int] = {}
        comms: dict[int, str | None] = {}
        peaks: list[int] = []
        managed_bytes = 0
        estimated = set()
        for process in self._registry.processes_of(guarded.container_id):
            slot = process.slot_of(gpu.uuid)
            if slot is not None:
                page = process.page.read(slot)
                ledger[process.key.pid] = page.used_bytes
                comms[process.key.pid] = process.comm
                peaks.append(page.peak_bytes)
                managed_bytes += page.managed_bytes
                if process.page.estimated:
                    estimated.add(process.key.pid)
        used_bytes = sum(ledger.values())
        peak_bytes = max(guarded.peak_bytes.get(gpu.uuid, 0), used_bytes, *peaks, 0)
        guarded.peak_bytes[gpu.uuid] = peak_bytes
        # Every process counts that anybody sees in the container: one without the wrapper is the point of looking.
        pids = sorted(set(ledger) | seen.pids_of(guarded.container_id))
        return DeviceUsage(
            uuid=gpu.uuid,
            index=gpu.index,
            limit_bytes=account.limit_bytes,
            guarantee_bytes=account.guarantee_bytes,
            assigned_bytes=account.assigned_bytes,
            used_bytes=used_bytes,
            managed_bytes=managed_bytes,
            peak_bytes=peak_bytes,
            witness_bytes=seen.witness_bytes(gpu.uuid, pids),
            nvml_bytes=seen.nvml_bytes(gpu.uuid, pids),
            requested_bytes=None if seen.requested is None else sum(seen.requested.get(pid, 0) for pid in pids),
            waiting=account.waiting,
            denied=account.denied,
            suspended_ms=account.suspended_ns // _NS_PER_MS,
            processes=tuple(
                ProcessStatus(
                    pid=pid,
                    comm=comms.get(pid),
                    used_bytes=ledger.get(pid),
                    witness_bytes=seen.witness_bytes(gpu.uuid, (pid,)),
                    nvml_bytes=seen.nvml_bytes(gpu.uuid, (pid,)),
                    estimated=pid in estimated,
                    witness_partial=pid in seen.partial,
                )
                for pid in pids
            ),
        )


def _processes(seen: Observation, gpu: Gpu | None, pids: Iterable[int]) -> tuple[ProcessStatus, ...]:
    """Return processes without a page, on one device or (None) without figures."""
    return tuple(
        ProcessStatus(
            pid=pid,
            comm=procfs.command_name(pid),
            used_bytes=None,
            witness_bytes=None if gpu is None else seen.witness_bytes(gpu.uuid, (pid,)),
            nvml_bytes=None if gpu is None else seen.nvml_bytes(gpu.uuid, (pid,)),
        )
        for pid in pids
    )


def _unguarded(
    gpu: Gpu, witness_bytes: int | None, nvml_bytes: int | None, processes: tuple[ProcessStatus, ...]
) -> DeviceUsage:
    return DeviceUsage(
        uuid=gpu.uuid,
        index=gpu.index,
        limit_bytes=None,
        guarantee_bytes=None,
        assigned_bytes=None,
        used_bytes=None,
        peak_bytes=None,
        witness_bytes=witness_bytes,
        nvml_bytes=nvml_bytes,
        waiting=0,
        denied=0,
        suspended_ms=0,
        processes=processes,
    )


def _sum(first: ProcessStatus, second: ProcessStatus) -> ProcessStatus:
    """Add up one process's shares of two devices; a figure missing on one of them is missing in the sum."""

    def add(left: int | None, right: int | None) -> int | None:
        return None if left is None or right is None else left + right

    return ProcessStatus(
        pid=first.pid,
        comm=first.comm or second.comm,
        used_bytes=add(first.used_bytes, second.used_bytes),
        witness_bytes=add(first.witness_bytes, second.witness_bytes),
        nvml_bytes=add(first.nvml_bytes, second.nvml_bytes),
        estimated=first.estimated or second.estimated,
        witness_partial=first.witness_partial or second.witness_partial,
    )
