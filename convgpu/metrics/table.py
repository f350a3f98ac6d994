# SPDX-License-Identifier: Apache-2.0
"""The table of metrics: every name once, with its kind, labels and meaning.

Names are stable and in base units: bytes, seconds, ratios of 0 to 1, degrees Celsius. Where OpenTelemetry's semantic
conventions have a name for the same thing it stands beside ours (`hw.gpu.*`, status "development" in 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "convgpu_"
GPU: Final = ("gpu_uuid",)
CONTAINER: Final = ("container", "gpu_uuid")
GROUP: Final = ("group", "gpu_uuid")
SUSPENDED_BUCKETS_S: Final = (0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds of `convgpu_request_suspended_seconds`: from what nobody notices to a day."""

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Without the prefix; of a counter without `_total`, which its samples have.
        kind: As Prometheus has it.
        labels: The names of its labels.
        meaning: What it says; the help of the endpoint.
        otel: OpenTelemetry's name for the same, and how to get there where it is not the value itself.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    otel: str = ""

    @property
    def family(self) -> str:
        """The name with its prefix."""
        return PREFIX + self.name

    @property
    def series(self) -> str:
        """The name that its samples have, which a query asks for."""
        return f"{self.family}_total" if self.kind == "counter" else self.family


_TABLE: Final = (
    Metric("daemon_info", "gauge", ("version", "algorithm", "driver", "simulated"), "Always 1. What runs here."),
    Metric("daemon_start_time_seconds", "gauge", (), "When the daemon started, seconds since the epoch."),
    Metric("gpu_info", "gauge", (*GPU, "gpu", "name"), "Always 1. Index and name of a GPU.", "hw.name, hw.model"),
    Metric("gpu_memory_total_bytes", "gauge", GPU, "Memory that the GPU has.", "hw.gpu.memory.limit"),
    Metric("gpu_memory_capacity_bytes", "gauge", GPU, "What containers may be assigned on the GPU."),
    Metric("gpu_memory_assigned_bytes", "gauge", GPU, "What is set aside for containers now."),
    Metric("gpu_memory_used_bytes", "gauge", GPU, "What is in use on the GPU, by NVML.", "hw.gpu.memory.usage"),
    Metric("gpu_memory_external_bytes", "gauge", GPU, "What is held outside ConvGPU, by NVML, rounded up."),
    Metric("gpu_utilization_ratio", "gauge", GPU, "Part of the time that the GPU was busy.", "hw.gpu.utilization"),
    Metric("gpu_temperature_celsius", "gauge", GPU, "Temperature of the GPU.", "hw.temperature"),
    Metric(
        "container_info",
        "gauge",
        ("container", "container_id", "image", "state", "guarded", "group"),
        "Always 1. What a container is.",
        "container.name, container.id, container.image.name",
    ),
    Metric("container_memory_used_bytes", "gauge", CONTAINER, "What the container holds, by the ledger."),
    Metric("container_memory_managed_bytes", "gauge", CONTAINER, "Managed memory, which counts against the limit too."),
    Metric("container_memory_witness_bytes", "gauge", CONTAINER, "What it holds, by the eBPF witness."),
    Metric("container_memory_nvml_bytes", "gauge", CONTAINER, "What it holds, by NVML."),
    Metric("container_memory_requested_bytes", "gauge", CONTAINER, "What its programs asked the CUDA runtime for."),
    Metric("container_memory_peak_bytes", "gauge", CONTAINER, "The most that it held."),
    Metric("container_memory_limit_bytes", "gauge", CONTAINER, "The most that it may hold."),
    Metric("container_memory_guarantee_bytes", "gauge", CONTAINER, "What is set aside for it from its start."),
    Metric("container_memory_assigned_bytes", "gauge", CONTAINER, "What is set aside for it now."),
    Metric("container_processes", "gauge", CONTAINER, "Its processes that are seen on the GPU."),
    Metric("container_requests_waiting", "gauge", CONTAINER, "Its allocations that wait now."),
    Metric("container_requests_denied", "counter", CONTAINER, "Its allocations that were denied since it started."),
    Metric(
        "container_suspended_seconds", "counter", CONTAINER, "How long its allocations waited in all, since it started."
    ),
    Metric("group_memory_limit_bytes", "gauge", GROUP, "The most that the containers of a group may hold together."),
    Metric("group_memory_assigned_bytes", "gauge", GROUP, "What is set aside for the containers of a group now."),
    Metric("group_memory_used_bytes", "gauge", GROUP, "What the containers of a group hold."),
    Metric("group_requests_waiting", "gauge", GROUP, "Allocations of a group's containers that wait now."),
    Metric("requests_waiting", "gauge", (*GPU, "kind"), "Who waits now: allocations, and starts of containers."),
    Metric(
        "decisions",
        "counter",
        ("outcome", "reason"),
        "Answers to requests since the daemon started: granted, resumed (granted after waiting), suspended, denied, "
        "withdrawn. Only denials have a reason.",
    ),
    Metric(
        "request_suspended_seconds",
        "histogram",
        ("outcome",),
        "How long the requests waited that had to and were answered since the daemon started: granted or denied.",
    ),
    Metric("findings", "gauge", (*GPU, "kind"), "What the three-way check finds now; docs/threat-model.md."),
    Metric("undecided_checks", "gauge", (), "What the three-way check cannot find out now."),
    Metric("witness_up", "gauge", (), "1: the eBPF witness runs."),
    Metric("witness_probes", "gauge", ("state",), "Probes that are attached, and that could not be."),
    Metric(
        "witness_lost_events", "counter", ("kind",), "Events that could not be delivered; balances are not affected."
    ),
    Metric("audit_records", "counter", (), "Serial number of the audit log's last record."),
    Metric(
        "audit_head_prefix",
        "gauge",
        (),
        "The first 48 bits of the hash of the audit log's last record, as a number: who keeps it can check later that "
        "the log still has it.",
    ),
)
METRICS: Final[dict[str, Metric]] = {metric.name: metric for metric in _TABLE}
