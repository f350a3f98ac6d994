# SPDX-License-Identifier: Apache-2.0
"""NVML: the devices of the machine, and NVIDIA's own figure for what each process holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pynvml

from convgpu.core.identity import GpuUuid
from convgpu.errors import EnvironmentMissingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device as NVML names it. `minor` is the N of /dev/nvidiaN; `index` is NVML's, never the driver instance."""

    uuid: GpuUuid
    index: int
    minor: int
    name: str
    total_bytes: int
    pci_domain: int
    pci_bus: int
    pci_device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One device at one moment. `process_bytes` maps host pids to bytes; None: NVML gave no figure for that process."""

    uuid: GpuUuid
    used_bytes: int | None
    utilization_percent: int | None
    temperature_c: int | None
    process_bytes: dict[int, int | None]


class GpuSource(Protocol):
    """What the daemon needs of NVML."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the devices, in NVML's order."""

    def read(self) -> tuple[GpuReading, ...]:
        """Measure every device now."""

    def driver_version(self) -> str | None:
        """Return the driver's version."""

    def close(self) -> None:
        """Give NVML back."""


class Nvml:
    """The real thing, through nvidia-ml-py.

    Raises:
        EnvironmentMissingError: No driver library or no device.
    """

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise EnvironmentMissingError(
                f"NVML does not start: {error}",
                next_step="install the NVIDIA driver, or start the simulated GPU with `convgpu sim up`",
            ) from error
        self._handles: dict[GpuUuid, Any] = {}
        self._gpus = tuple(self._describe(index) for index in range(pynvml.nvmlDeviceGetCount()))

    def _describe(self, index: int) -> Gpu:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        uuid = GpuUuid(pynvml.nvmlDeviceGetUUID(handle))
        self._handles[uuid] = handle
        return Gpu(
            uuid=uuid,
            index=index,
            minor=pynvml.nvmlDeviceGetMinorNumber(handle),
            name=pynvml.nvmlDeviceGetName(handle),
            total_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
            pci_domain=pci.domain,
            pci_bus=pci.bus,
            pci_device=pci.device,
        )

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the devices, in NVML's order."""
        return self._gpus

    def read(self) -> tuple[GpuReading, ...]:
        """Measure every device now. What a device does not report is None."""
        return tuple(self._read_one(uuid, handle) for uuid, handle in self._handles.items())

    @staticmethod
    def _read_one(uuid: GpuUuid, handle: Any) -> GpuReading:
        memory = _or_none(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        utilization = _or_none(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        temperature = _or_none(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        processes = _or_none(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return GpuReading(
            uuid=uuid,
            used_bytes=memory,
            utilization_percent=utilization,
            temperature_c=temperature,
            process_bytes={process.pid: process.usedGpuMemory for process in processes or ()},
        )

    def driver_version(self) -> str | None:
        """Return the driver's version, or None when NVML does not say."""
        version: str | None = _or_none(pynvml.nvmlSystemGetDriverVersion)
        return version

    def close(self) -> None:
        """Give NVML back."""
        pynvml.nvmlShutdown()


def _or_none(ask: Any) -> Any:
    """Return what NVML says, or None where this device does not support the question."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None
