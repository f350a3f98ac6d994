# SPDX-License-Identifier: Apache-2.0
"""Small workloads, written the short way. One device of 10 GiB unless a test says otherwise."""

from __future__ import annotations

from typing import Any

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.simulation.phases import parse_phases
from convgpu.simulation.result import ContainerResult, Result, Settings
from convgpu.simulation.simulator import simulate
from convgpu.simulation.workload import Container, Device, Process, QuotaChange, Step, Workload

GPU, OTHER = GpuUuid("0"), GpuUuid("1")
SECOND = 1_000_000_000
FIFO = Settings(algorithm="fifo")


def container(name: str, phases: str | tuple[Step, ...] = "", arrival_s: float = 0, **more: Any) -> Container:
    """One with a limit of 8 GiB and no guarantee."""
    steps = parse_phases(phases, [GPU, OTHER]) if isinstance(phases, str) else phases
    arrival_ns = int(arrival_s * SECOND)
    fields: dict[str, Any] = {"quotas": {GPU: Quota(8 * GIB, 0)}, "processes": (Process(steps),)} | more
    return Container(ContainerId(name), name, arrival_ns, arrival_ns, **fields)


def workload(*containers: Container, quota_changes: tuple[QuotaChange, ...] = (), devices: int = 1) -> Workload:
    names = [str(number) for number in range(devices)]
    return Workload("test", tuple(Device(GpuUuid(name), name, 10 * GIB) for name in names), containers, quota_changes)


def run(*containers: Container, settings: Settings = FIFO, **more: Any) -> Result:
    return simulate(workload(*containers, **more), settings)


def of(result: Result, name: str) -> ContainerResult:
    return next(each for each in result.containers if each.name == name)
