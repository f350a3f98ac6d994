# SPDX-License-Identifier: Apache-2.0
"""A snapshot to draw and to serve: three containers on one simulated GPU, one of them waiting; and what happened."""

from __future__ import annotations

from typing import Final

from convgpu.core.detail import ContainerDetail
from convgpu.core.events import LogEvent
from convgpu.core.status import (
    ContainerStatus,
    DeviceUsage,
    GpuStatus,
    ProcessStatus,
    Snapshot,
    WaitingStatus,
    WitnessStatus,
)
from convgpu.core.units import GIB, MIB

GPU_UUID: Final = "GPU-5ca1ab1e-0000-4000-8000-000000000000"


def device_usage(
    used_bytes: int | None,
    limit_bytes: int | None,
    *,
    assigned_bytes: int | None = None,
    peak_bytes: int | None = None,
    waiting: int = 0,
    denied: int = 0,
    suspended_ms: int = 0,
    uuid: str = GPU_UUID,
    index: int = 0,
    processes: tuple[ProcessStatus, ...] = (),
) -> DeviceUsage:
    """Make one container's use of one device, on which ledger, witness and NVML agree."""
    return DeviceUsage(
        uuid=uuid,
        index=index,
        limit_bytes=limit_bytes,
        guarantee_bytes=limit_bytes,
        assigned_bytes=limit_bytes if assigned_bytes is None else assigned_bytes,
        used_bytes=used_bytes,
        peak_bytes=used_bytes if peak_bytes is None else peak_bytes,
        witness_bytes=used_bytes,
        nvml_bytes=used_bytes,
        waiting=waiting,
        denied=denied,
        suspended_ms=suspended_ms,
        requested_bytes=None if used_bytes is None else max(0, used_bytes - 512 * MIB),
        processes=processes,
    )


def container_status(
    name: str, *devices: DeviceUsage, state: str = "running", image: str = "convgpu/story"
) -> ContainerStatus:
    """Make a container; its id is made of its name, so that it is the same every time."""
    processes = tuple(process for device in devices for process in device.processes)
    return ContainerStatus(
        container_id=(name.encode().hex() + 64 * "0")[:64],
        name=name,
        image=image,
        state=state,
        devices=devices,
        processes=processes,
    )


def sample_snapshot() -> Snapshot:
    """Return the middle of the demo's story: alpha runs, beta is suspended, gamma was denied once."""
    alpha = ProcessStatus(pid=4101, comm="story", used_bytes=4608 * MIB, witness_bytes=4608 * MIB)
    beta = ProcessStatus(pid=4207, comm="story", used_bytes=512 * MIB, witness_bytes=512 * MIB)
    gamma = ProcessStatus(pid=4302, comm="story", used_bytes=512 * MIB, witness_bytes=512 * MIB)
    return Snapshot(
        taken_at="2026-03-01T12:00:07.250000000Z",
        version="0.1.0",
        simulated=True,
        driver="580.95.05",
        algorithm="fifo",
        gpus=(
            GpuStatus(
                uuid=GPU_UUID,
                index=0,
                name="Simulated GPU",
                total_bytes=10 * GIB,
                capacity_bytes=10 * GIB,
                assigned_bytes=10 * GIB,
                used_bytes=5632 * MIB,
                utilization_percent=34,
                temperature_c=41,
                external_bytes=0,
            ),
        ),
        containers=(
            container_status("alpha", device_usage(4608 * MIB, 5 * GIB, processes=(alpha,))),
            container_status(
                "gamma",
                device_usage(512 * MIB, GIB, peak_bytes=640 * MIB, denied=1, processes=(gamma,)),
            ),
            container_status(
                "beta",
                device_usage(
                    512 * MIB, 5 * GIB, assigned_bytes=4 * GIB, waiting=1, suspended_ms=12_340, processes=(beta,)
                ),
            ),
        ),
        queue=(
            WaitingStatus(
                container_id=container_status("beta").container_id,
                container_name="beta",
                uuid=GPU_UUID,
                pid=4207,
                size_bytes=4 * GIB,
                comm="story",
                api="cuMemAlloc_v2",
                need_bytes=512 * MIB,
                waited_ms=12_340,
                position=1,
                place="in order of creation",
                obstacle="not_free",
                goes_on="when 512MiB are free on GPU 0 (0B now); the end of alpha is enough",
                enough=(container_status("alpha").container_id,),
            ),
        ),
        witness=WitnessStatus(
            running=True,
            reason=None,
            attached=("sys_enter_ioctl", "sys_exit_ioctl", "cuMemAlloc_v2", "cuMemFree_v2", "cudaMalloc"),
            missing=("cudaFree",),
            lost={"ring": 0, "map": 0},
        ),
        audit_path="/var/log/convgpu/audit.jsonl",
        audit_seq=1234,
        audit_head="9f3a5c2be1d07a44c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00",
    )


def sample_events() -> tuple[LogEvent, ...]:
    """Return how the demo's story came to where `sample_snapshot` has it."""
    told = (
        ("daemon.start", None, "ConvGPU 0.1.0 starts, algorithm fifo"),
        ("container.seen", "alpha", "alpha seen, limit 5GiB"),
        ("container.seen", "beta", "beta seen, limit 5GiB"),
        (
            "decision.denied",
            "gamma",
            "gamma was denied 2GiB on GPU 0: over its limit, holds 512MiB of 1GiB, for story[4302]",
        ),
        (
            "decision.suspended",
            "beta",
            "beta waits for 4GiB on GPU 0: needs 512MiB more, 0B free, position 1, for story[4207]",
        ),
    )
    return tuple(
        LogEvent(
            seq=1200 + second,
            ts=f"2026-03-01T12:00:{second:02}.000000000Z",
            mono_ns=second * 1_000_000_000,
            type=type_name,
            sentence=sentence,
            container_id=None if name is None else container_status(name).container_id,
            container_name=name,
        )
        for second, (type_name, name, sentence) in enumerate(told)
    )


def sample_detail(name: str = "beta") -> ContainerDetail:
    """Return the close look at one container of `sample_snapshot`."""
    snapshot = sample_snapshot()
    container_id = container_status(name).container_id
    return ContainerDetail(
        container_id=container_id,
        name=name,
        limit_source="label",
        sizes={"boundary": {21: 4, 29: 1}, "runtime": {12: 3, 20: 0, 21: 120, 22: 31, 29: 1}},
        waiting=tuple(each for each in snapshot.queue if each.container_id == container_id),
        decisions=tuple(each for each in sample_events() if each.container_id == container_id),
    )
