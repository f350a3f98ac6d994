# SPDX-License-Identifier: Apache-2.0
"""Devices that live in memory: a `GpuSource` whose figures a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field

from convgpu.core.identity import GpuUuid
from convgpu.core.units import GIB
from convgpu.sources.nvml import Gpu, GpuReading


def make_gpu(index: int = 0, total_bytes: int = 10 * GIB) -> Gpu:
    """Return a device with a UUID and PCI address made from its index."""
    return Gpu(
        uuid=GpuUuid(f"GPU-00000000-0000-4000-8000-{index:012d}"),
        index=index,
        minor=index,
        name="Fake GPU",
        total_bytes=total_bytes,
        pci_domain=0,
        pci_bus=6 + index,
        pci_device=0,
    )


@dataclass
class FakeGpuSource:
    """A `GpuSource`.

    Attributes:
        devices: What it lists.
        process_bytes: What it says that processes hold, by device and pid.
        others_bytes: What is in use on each device besides those.
        passing_bytes: What is in use besides at the next readings, one figure for each: what two figures of one
            reading caught in between.
        used_is_known: Whether a device says how much of it is in use.
    """

    devices: tuple[Gpu, ...] = field(default_factory=lambda: (make_gpu(),))
    process_bytes: dict[GpuUuid, dict[int, int | None]] = field(default_factory=dict)
    others_bytes: int = 0
    passing_bytes: list[int] = field(default_factory=list)
    used_is_known: bool = True

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the devices."""
        return self.devices

    def read(self) -> tuple[GpuReading, ...]:
        """Return the figures as they are set now."""
        passing_bytes = self.passing_bytes.pop(0) if self.passing_bytes else 0
        return tuple(self._read_one(gpu, passing_bytes) for gpu in self.devices)

    def _read_one(self, gpu: Gpu, passing_bytes: int) -> GpuReading:
        held = self.process_bytes.get(gpu.uuid, {})
        used_bytes = self.others_bytes + passing_bytes + sum(size or 0 for size in held.values())
        return GpuReading(
            uuid=gpu.uuid,
            used_bytes=used_bytes if self.used_is_known else None,
            utilization_percent=None,
            temperature_c=None,
            process_bytes=dict(held),
        )

    def driver_version(self) -> str | None:
        """Return a version that no driver has."""
        return "0.0-fake"

    def close(self) -> None:
        """Nothing is open."""
