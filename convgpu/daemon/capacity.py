# SPDX-License-Identifier: Apache-2.0
"""How much of each device ConvGPU may assign."""

from __future__ import annotations

from collections.abc import Iterable

from convgpu.core.identity import GpuUuid
from convgpu.daemon.config import ALL_DEVICES, DaemonConfig
from convgpu.errors import UsageError
from convgpu.sources.nvml import Gpu, GpuReading


def of_devices(
    config: DaemonConfig, gpus: Iterable[Gpu], readings: Iterable[GpuReading], guarded_pids: set[int]
) -> dict[GpuUuid, int]:
    """Return the capacity of each device in bytes.

    A configured capacity holds as it is. Otherwise it is the device's total, minus what is in use now by anything but
    the guarded processes (the driver's own base among it), minus the reserve.

    Raises:
        UsageError: A capacity is configured for a device that is not there, or is larger than the device.
    """
    gpus = tuple(gpus)
    known = {ALL_DEVICES} | {gpu.uuid for gpu in gpus} | {str(gpu.index) for gpu in gpus}
    for name in config.capacities:
        if name not in known:
            raise UsageError(f"there is no GPU '{name}' to give a capacity; there are: {_list(gpus)}")
    by_uuid = {reading.uuid: reading for reading in readings}
    return {gpu.uuid: _of_device(config, gpu, by_uuid[gpu.uuid], guarded_pids) for gpu in gpus}


def _of_device(config: DaemonConfig, gpu: Gpu, reading: GpuReading, guarded_pids: set[int]) -> int:
    for name in (gpu.uuid, str(gpu.index), ALL_DEVICES):
        if name in config.capacities:
            capacity_bytes = config.capacities[name]
            if capacity_bytes > gpu.total_bytes:
                raise UsageError(
                    f"a capacity of {capacity_bytes} bytes is more than GPU {gpu.index} has ({gpu.total_bytes} bytes)"
                )
            return capacity_bytes
    guarded_bytes = sum(reading.process_bytes.get(pid) or 0 for pid in guarded_pids)
    others_bytes = max(0, (reading.used_bytes or 0) - guarded_bytes)
    return max(0, gpu.total_bytes - others_bytes - config.reserve_bytes)


def _list(gpus: Iterable[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
