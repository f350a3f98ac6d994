# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from logs import CONTAINER, GPU, SECOND, WALL_NS, Log

from convgpu.audit.files import read_lines
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.errors import AuditError
from convgpu.simulation.events import (
    CapacityChanged,
    ContainerGone,
    ContainerSeen,
    DaemonStarted,
    DaemonStopped,
    Decided,
    ProcessGone,
    ProcessSeen,
    QuotaSet,
    Reclaimed,
    SettingsChanged,
    StartDecided,
    Withdrawn,
    is_safe,
)
from convgpu.simulation.recording import read_recording
from convgpu.simulation.result import Settings
from convgpu.simulation.workload import Device

ALPHA, DEVICE = ContainerId("c" * 64), GpuUuid("GPU-0")
KEY = ProcessKey(7, 70)


def when(seq: int, at_s: float) -> dict[str, int]:
    return {"seq": seq, "at_ns": WALL_NS + int(at_s * SECOND)}


def test_every_kind_of_event_is_read(tmp_path: Path) -> None:
    log = Log().start()
    log.container(1, queued_ns=SECOND // 2, wait_ns=9, assigned_bytes=2 * GIB, passed=3, restored=True)
    log.add(2, "start.admitted", container=CONTAINER, waited_ns=5)
    log.process(3).process(4, used_bytes=GIB, gpu=GPU)
    log.decide(5, "denied", "1", GIB, waitable=False, reason="not_now", api="cuMemAlloc_v2", used_bytes=7)
    log.reclaim(6, GIB)
    log.process(7, "decision.withdrawn", request="2", size_bytes=GIB, gpu=GPU)
    log.add(8, "limit.set", container=CONTAINER, gpu=GPU, old_limit_bytes=1, limit_bytes=3, guarantee_bytes=2)
    log.add(9, "capacity.changed", gpu=GPU, old_capacity_bytes=1, capacity_bytes=9 * GIB, reason="others")
    log.add(10, "config.changed", settings={"algorithm": "fair"}, old_settings={"algorithm": "fifo"})
    log.process(11, "process.gone", used_bytes=0)
    log.add(12, "container.gone", container=CONTAINER)
    log.add(13, "reconcile", reason="is passed over")
    log.add(14, "daemon.stop")
    events = read_recording(log.lines, "log")
    start, *others = events
    assert isinstance(start, DaemonStarted)
    assert start.devices == (Device(DEVICE, "0", 10 * GIB),)
    assert start.turns == {DEVICE: 4}
    assert start.simulated() == Settings(algorithm="fifo", seed=3, safe=True, max_bypass=5)
    assert others == [
        ContainerSeen(
            **when(2, 1),
            container=ALPHA,
            name="alpha",
            created_ns=5,
            quotas={DEVICE: Quota(8 * GIB, 0)},
            priority=2,
            wait_ns=9,
            restored=True,
            passed={DEVICE: 3},
            assigned_bytes={DEVICE: 2 * GIB},
            queued_ns=WALL_NS + SECOND // 2,
        ),
        StartDecided(**when(3, 2), container=ALPHA, admitted=True, reason=None),
        ProcessSeen(**when(4, 3), process=KEY, container=ALPHA),
        ProcessSeen(**when(5, 4), process=KEY, container=ALPHA, gpu=DEVICE, held_bytes=GIB),
        Decided(
            **when(6, 5),
            kind="denied",
            request="1",
            process=KEY,
            container=ALPHA,
            gpu=DEVICE,
            size_bytes=GIB,
            waitable=False,
            forced=False,
            arrived_ns=WALL_NS + 5 * SECOND,
            api="cuMemAlloc_v2",
            reason="not_now",
            figures={"used_bytes": 7},
        ),
        Reclaimed(**when(7, 6), process=KEY, gpu=DEVICE, size_bytes=GIB),
        Withdrawn(**when(8, 7), request="2", process=KEY),
        QuotaSet(**when(9, 8), container=ALPHA, gpu=DEVICE, quota=Quota(3, 2)),
        CapacityChanged(**when(10, 9), gpu=DEVICE, capacity_bytes=9 * GIB),
        SettingsChanged(**when(11, 10), settings={"algorithm": "fair"}, old_settings={"algorithm": "fifo"}),
        ProcessGone(**when(12, 11), process=KEY, container=ALPHA),
        ContainerGone(**when(13, 12), container=ALPHA),
        DaemonStopped(**when(15, 14)),
    ]


def test_the_records_of_one_container_are_one_event() -> None:
    log = Log().start().container(1).container(1.1, gpu={"id": "GPU-1", "index": 1}, assigned_bytes=5)
    _, seen = read_recording(log.lines, "log")
    assert isinstance(seen, ContainerSeen)
    assert set(seen.quotas) == {"GPU-0", "GPU-1"}
    assert seen.assigned_bytes == {"GPU-0": 0, "GPU-1": 5}
    assert seen.seq == 2


def test_two_boots_are_put_on_one_clock() -> None:
    log = Log().start(100)
    log.boot()
    log.start(20)
    first, second = read_recording(log.lines, "log")
    assert second.at_ns - first.at_ns == (86_400 + 20 - 100) * SECOND


def test_the_safety_rule_may_hold_for_some_devices_only() -> None:
    device = Device(DEVICE, "0", GIB)
    assert is_safe({}, device)
    assert not is_safe({"safe": "false"}, device)
    assert is_safe({"safe": "false", "device.0.safe": "true"}, device)
    assert not is_safe({"device.0.safe": "true", "device.GPU-0.safe": "false"}, device)


def test_a_log_may_be_packed_and_its_last_line_torn(tmp_path: Path) -> None:
    log = Log().start().container(1)
    path = tmp_path / "audit.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(log.lines) + b'{"v":1,"se'))
    assert len(read_recording(read_lines([path]), "log")) == 2


def test_what_is_no_log_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No such file"):
        read_recording(read_lines([tmp_path / "none.jsonl"]), "log")
    (tmp_path / "text.gz").write_bytes(b"no gzip")
    with pytest.raises(AuditError, match=r"text\.gz"):
        read_recording(read_lines([tmp_path / "text.gz"]), "log")
    with pytest.raises(AuditError, match="line 2 of log is not an audit record"):
        read_recording([*Log().start().lines, b"{}\n"], "log")
    with pytest.raises(AuditError, match="does not begin with the start of a daemon") as caught:
        read_recording(Log().container(1).lines, "log")
    assert caught.value.next_step is not None
