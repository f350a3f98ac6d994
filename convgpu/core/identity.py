# SPDX-License-Identifier: Apache-2.0
"""Who is who: processes, containers, groups and devices, each by the one key that cannot be mistaken."""

from __future__ import annotations

from typing import NamedTuple, NewType

ContainerId = NewType("ContainerId", str)
"""Docker's full id: 64 hexadecimal digits."""

GpuUuid = NewType("GpuUuid", str)
"""NVML's form: `GPU-` and a UUID. Never an index: indices depend on CUDA_VISIBLE_DEVICES and on the driver."""

GroupName = NewType("GroupName", str)
"""A group of containers that share a quota, and its place in the tree: `lab/team`; see `convgpu.core.groups`."""


class ProcessKey(NamedTuple):
    """A process. Pids are used again, so a pid alone names nobody.

    Attributes:
        pid: The pid in the host's pid namespace.
        start_ticks: Start time in clock ticks since boot, field 22 of /proc/PID/stat.
    """

    pid: int
    start_ticks: int
