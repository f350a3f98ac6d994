# SPDX-License-Identifier: Apache-2.0
"""The one place where a simulation makes the engine and starts containers, as the daemon does."""

from __future__ import annotations

from collections.abc import Iterable

from convgpu.core.algorithms import load_algorithm
from convgpu.core.decision import Decision
from convgpu.core.engine import Engine
from convgpu.core.groups import GroupLimits
from convgpu.simulation.result import Settings
from convgpu.simulation.workload import Container, Device


def make_engine(devices: Iterable[Device], settings: Settings, groups: GroupLimits | None = None) -> Engine:
    """Make an engine for these devices, and groups with these limits.

    Raises:
        UsageError: No such algorithm.
    """
    return Engine(
        {device.gpu: device.capacity_bytes for device in devices},
        load_algorithm(settings.algorithm),
        safe=settings.safe,
        max_bypass=settings.max_bypass,
        seed=settings.seed,
        groups=groups,
    )


def start(engine: Engine, container: Container, now_ns: int, *, admit_wait: bool) -> list[Decision]:
    """Start a container, or take one up that ran before.

    Raises:
        QuotaRefusedError: A limit is above the capacity of its device, or the limit of its group.
        UsageError: No such device.
    """
    if container.carried is not None:
        engine.restore_container(
            container.container_id,
            container.created_ns,
            container.quotas,
            carried=container.carried,
            wait_ns=container.wait_ns,
            priority=container.priority,
            group=container.group,
        )
        return []
    return engine.start_container(
        container.container_id,
        container.created_ns,
        container.quotas,
        wait_ns=container.wait_ns,
        priority=container.priority,
        group=container.group,
        queued_ns=now_ns if admit_wait else None,
        now_ns=now_ns,
    )
