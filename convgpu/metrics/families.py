# SPDX-License-Identifier: Apache-2.0
"""The values of every metric, from one snapshot and the tally: values in, samples out.

Every scrape starts from nothing, so what is gone leaves no series behind: there are as many as there are containers
now, times their devices. What is not known has no sample; it is never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from convgpu.core.findings import FindingKind
from convgpu.core.status import ContainerStatus, DeviceUsage, GpuStatus, GroupUsage, Snapshot
from convgpu.metrics.table import METRICS, SUSPENDED_BUCKETS_S, Metric
from convgpu.metrics.tally import GRANTED, RESUMED, SUSPENDED, WITHDRAWN, Tally

_ID_DIGITS: Final = 12
_HEAD_DIGITS: Final = 12
"""Of the head's hash, in hexadecimal: 48 bits, which a double holds exactly."""
_OUTCOMES: Final = (GRANTED, RESUMED, SUSPENDED, WITHDRAWN)
"""Those without a reason; they are there from the start, with 0."""
_WAITING_KINDS: Final = ("allocation", "start")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric.

    Attributes:
        labels: In the order of the metric's.
        buckets: Of a histogram: the counts up to each bound, and of all.
    """

    metric: Metric
    labels: tuple[str, ...]
    value: float
    buckets: tuple[int, ...] = ()


def samples(snapshot: Snapshot, tally: Tally, started_s: float) -> Iterator[Sample]:
    """Return every sample.

    Args:
        snapshot: Everything that the daemon knows.
        tally: What was decided so far.
        started_s: When the daemon started, seconds since the epoch.
    """
    labels = (snapshot.version, snapshot.algorithm, snapshot.driver or "", str(snapshot.simulated).lower())
    yield _sample("daemon_info", 1, *labels)
    yield _sample("daemon_start_time_seconds", started_s)
    for gpu in snapshot.gpus:
        yield from _known(_of_gpu(gpu), gpu.uuid)
        yield _sample("gpu_info", 1, gpu.uuid, str(gpu.index), gpu.name)
        for kind in _WAITING_KINDS:
            waiting = sum(each.uuid == gpu.uuid and each.kind == kind for each in snapshot.queue)
            yield _sample("requests_waiting", waiting, gpu.uuid, kind)
    yield from _of_containers(snapshot)
    for group in snapshot.groups:
        for usage in group.devices:
            yield from _known(_of_group(usage), group.name, usage.uuid)
    yield from _of_findings(snapshot)
    yield from _of_decisions(tally)
    yield from _of_witness(snapshot)
    if snapshot.audit_seq is not None:
        yield _sample("audit_records", snapshot.audit_seq)
    if snapshot.audit_head:
        yield _sample("audit_head_prefix", int(snapshot.audit_head[:_HEAD_DIGITS], 16))


def _sample(name: str, value: float, *labels: str) -> Sample:
    return Sample(METRICS[name], labels, value)


def _known(values: Mapping[str, float | None], *labels: str) -> Iterator[Sample]:
    """Return the samples of those values that are known."""
    for name, value in values.items():
        if value is not None:
            yield _sample(name, value, *labels)


def _of_gpu(gpu: GpuStatus) -> dict[str, float | None]:
    return {
        "gpu_memory_total_bytes": gpu.total_bytes,
        "gpu_memory_capacity_bytes": gpu.capacity_bytes,
        "gpu_memory_assigned_bytes": gpu.assigned_bytes,
        "gpu_memory_used_bytes": gpu.used_bytes,
        "gpu_memory_external_bytes": gpu.external_bytes,
        "gpu_utilization_ratio": None if gpu.utilization_percent is None else gpu.utilization_percent / 100,
        "gpu_temperature_celsius": gpu.temperature_c,
    }


def _of_containers(snapshot: Snapshot) -> Iterator[Sample]:
    for container, name in _named(snapshot.containers):
        guarded = str(container.guarded).lower()
        words = (container.container_id, container.image, container.state, guarded, container.group or "")
        yield _sample("container_info", 1, name, *words)
        for device in container.devices:
            yield from _known(_of_device(device), name, device.uuid)


def _named(containers: tuple[ContainerStatus, ...]) -> Iterator[tuple[ContainerStatus, str]]:
    """Name each once: one that is about to go may still be there when another has its name already."""
    times = Counter(container.name for container in containers)
    for container in containers:
        doubled = times[container.name] > 1
        yield container, f"{container.name}@{container.container_id[:_ID_DIGITS]}" if doubled else container.name


def _of_device(device: DeviceUsage) -> dict[str, float | None]:
    return {
        "container_memory_used_bytes": device.used_bytes,
        "container_memory_managed_bytes": device.managed_bytes,
        "container_memory_witness_bytes": device.witness_bytes,
        "container_memory_nvml_bytes": device.nvml_bytes,
        "container_memory_requested_bytes": device.requested_bytes,
        "container_memory_peak_bytes": device.peak_bytes,
        "container_memory_limit_bytes": device.limit_bytes,
        "container_memory_guarantee_bytes": device.guarantee_bytes,
        "container_memory_assigned_bytes": device.assigned_bytes,
        "container_processes": len(device.processes),
        "container_requests_waiting": device.waiting,
        "container_requests_denied": device.denied,
        "container_suspended_seconds": device.suspended_ms / 1000,
    }


def _of_group(usage: GroupUsage) -> dict[str, float | None]:
    return {
        "group_memory_limit_bytes": usage.limit_bytes,
        "group_memory_assigned_bytes": usage.assigned_bytes,
        "group_memory_used_bytes": usage.used_bytes,
        "group_requests_waiting": usage.waiting,
    }


def _of_findings(snapshot: Snapshot) -> Iterator[Sample]:
    of_containers = (finding for container in snapshot.containers for finding in container.findings)
    of_gpus = (finding for gpu in snapshot.gpus for finding in gpu.findings)
    found = Counter((finding.uuid, finding.kind) for finding in (*of_containers, *of_gpus))
    for gpu in snapshot.gpus:
        for kind in FindingKind:
            yield _sample("findings", found[gpu.uuid, str(kind)], gpu.uuid, str(kind))
    yield _sample("undecided_checks", len(snapshot.undecided))


def _of_decisions(tally: Tally) -> Iterator[Sample]:
    for outcome, reason in sorted({*((each, "") for each in _OUTCOMES), *tally.decisions}):
        yield _sample("decisions", tally.decisions[outcome, reason], outcome, reason)
    for outcome, waits in tally.waits.items():
        buckets = tuple(accumulate(waits.counts))
        yield Sample(METRICS["request_suspended_seconds"], (outcome,), waits.sum_s, buckets)


def _of_witness(snapshot: Snapshot) -> Iterator[Sample]:
    yield _sample("witness_up", int(snapshot.witness.running))
    yield _sample("witness_probes", len(snapshot.witness.attached), "attached")
    yield _sample("witness_probes", len(snapshot.witness.missing), "missing")
    for kind, count in sorted(snapshot.witness.lost.items()):
        yield _sample("witness_lost_events", count, kind)


def bounds() -> tuple[str, ...]:
    """Return the upper bounds of a histogram's buckets as Prometheus writes them."""
    return (*(str(bound) for bound in SUSPENDED_BUCKETS_S), "+Inf")
