# SPDX-License-Identifier: Apache-2.0
"""A device for the wrapper's tests, simulated or real, and what it says itself about who holds how much."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pynvml
from fake_daemon import Device

from convgpu.sources import simgpu


@dataclass
class Gpu:
    """One device."""

    device: Device
    settings: dict[str, object]
    """What a program needs to find it: keyword arguments of `start`."""
    held_by: Callable[[int], int]
    folder: Path
    """Where nvidiactl is."""


def _device(uuid_text: str, pci: str) -> Device:
    domain, bus, slot = pci.split(":")
    return Device(uuid.UUID(uuid_text.removeprefix("GPU-")).bytes, int(domain, 16), int(bus, 16), int(slot[:2], 16))


def simulated(run_dir: Path) -> Gpu:
    """Start the simulated GPU in a folder, or find it there."""
    (gpu,) = simgpu.up(run_dir).gpus
    return Gpu(
        _device(gpu.uuid, gpu.pci),
        {"DRIVER": simgpu.library_dir(), simgpu.DEVICE_ENVIRONMENT: run_dir / "dev"},
        lambda pid: simgpu.status(run_dir).gpus[0].process_bytes.get(pid, 0),
        run_dir / "dev",
    )


def real() -> Gpu:
    """The first GPU of this machine."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def held_by(pid: int) -> int:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return sum(process.usedGpuMemory for process in running if process.pid == pid)

    device = _device(pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetPciInfo(handle).busId)
    return Gpu(device, {"DRIVER": os.environ.get("LD_LIBRARY_PATH", "")}, held_by, Path("/dev"))
