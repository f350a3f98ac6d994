# SPDX-License-Identifier: Apache-2.0
"""Builds the snapshot that `convgpu ps`, the monitor and scripts see: ledger, witness and NVML side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from convgpu import __version__
from convgpu.audit.chain import Head
from convgpu.config.layers import InForce
from convgpu.core.engine import Engine
from convgpu.core.status import (
    ContainerStatus,
    DeviceUsage,
    GpuStatus,
    ProcessStatus,
    Snapshot,
    WitnessStatus,
)
from convgpu.daemon.capacity import Capacities
from convgpu.daemon.observer import Observation
from convgpu.daemon.registry import GuardedContainer, GuardedProcess, Registry
from convgpu.daemon.waiting import WaitingList
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
        driver: str | None,
        audit_path: str,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._gpus = gpus
        self._in_force = in_force
        self._capacities = capacities
        self._driver = driver
        self._audit_path = audit_path
        self._clock = clock
        self.waiting = WaitingList(engine, registry, gpus, clock)

    def snapshot(self, seen: Observation, witness: WitnessStatus, audit_head: Head) -> Snapshot:
        """Return everything as it is now."""
        now_ns = self._clock()
        containers = sorted(self._registry.containers.values(), key=lambda guarded: guarded.facts.created_ns)
        return Snapshot(
            taken_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            version=__version__,
            simulated=self._in_force.config.simulated,
            driver=self._driver,
            algorithm=self._in_force.config.algorithm,
            gpus=tuple(self._gpu(gpu, seen) for gpu in self._gpus),
            containers=tuple(self._container(guarded, seen, now_ns) for guarded in containers),
            queue=self.waiting.entries(),
            witness=witness,
            audit_path=self._audit_path,
            audit_seq=audit_head.seq,
            audit_head=audit_head.hash,
        )

    def estimating(self) -> list[GuardedProcess]:
        """Return the processes whose ledger is an estimate."""
        return [process for process in self._registry.processes.values() if process.page.estimated]

    def _gpu(self, gpu: Gpu, seen: Observation) -> GpuStatus:
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
        )

    def _container(self, guarded: GuardedContainer, seen: Observation, now_ns: int) -> ContainerStatus:
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
