# SPDX-License-Identifier: Apache-2.0
"""How much of each device ConvGPU may assign: by the operator's word, or what the outside leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convgpu.config.groups import ALL_GPUS
from convgpu.config.keys import DaemonConfig
from convgpu.core.amount import Amount
from convgpu.core.identity import GpuUuid
from convgpu.core.units import format_size
from convgpu.daemon.outside import Holding, Outside, outside_bytes
from convgpu.errors import ConfigError
from convgpu.sources.nvml import Gpu, GpuReading

Held = Mapping[GpuUuid, Iterable[Holding]]
"""What guarded processes hold, by device; one that is not named has none."""


def check_devices(config: DaemonConfig, gpus: tuple[Gpu, ...]) -> None:
    """Refuse settings that do not go with the devices of this machine.

    Raises:
        ConfigError: Something is set for a GPU that is not there, or a capacity is more than the device has.
    """
    known = {gpu.uuid for gpu in gpus} | {str(gpu.index) for gpu in gpus}
    there_are = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
    named = {*config.devices, *(gpu for limits in config.groups.values() for gpu in limits if gpu != ALL_GPUS)}
    wrong = [f"there is no GPU '{name}' to set anything for; there are: {there_are}" for name in named - known]
    for gpu in gpus:
        configured = config.of_device(gpu.uuid, gpu.index).capacity
        if isinstance(configured, Amount) and configured.of(gpu.total_bytes) > gpu.total_bytes:
            wrong.append(
                f"a capacity of {configured} is more than GPU {gpu.index} has ({format_size(gpu.total_bytes)})"
            )
    if wrong:
        raise ConfigError("\n".join(sorted(wrong)))


def of_device(config: DaemonConfig, gpu: Gpu, external_bytes: int) -> int:
    """Return the capacity of one device in bytes, given what is held outside.

    A configured capacity holds as it is. Otherwise it is the device's total, minus what is held outside (the driver's
    own base among it), minus the reserve.
    """
    settings = config.of_device(gpu.uuid, gpu.index)
    if isinstance(settings.capacity, Amount):
        return settings.capacity.of(gpu.total_bytes)
    return max(0, gpu.total_bytes - external_bytes - settings.reserve.of(gpu.total_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityChange:
    """One device may be assigned more or less than until now. `reason`: `external` or `configuration`."""

    gpu: GpuUuid
    old_bytes: int
    new_bytes: int
    external_bytes: int | None
    reason: str


class Capacities:
    """Knows every device's capacity and what is held outside; says what has changed.

    Args:
        first: Readings of the start, each with what guarded processes held then. Of several the smallest counts:
            there is no time to wait whether a figure lasts.

    Raises:
        ConfigError: See `check_devices`.
    """

    def __init__(
        self, config: DaemonConfig, gpus: tuple[Gpu, ...], first: Iterable[tuple[Iterable[GpuReading], Held]]
    ) -> None:
        check_devices(config, gpus)
        self._config = config
        self._gpus = gpus
        self._outside: dict[GpuUuid, Outside] = {}
        smallest: dict[GpuUuid, int] = {}
        for readings, held in first:
            for uuid, size_bytes in _measured(readings, held):
                smallest[uuid] = min(size_bytes, smallest.get(uuid, size_bytes))
        self._outside = {uuid: Outside(size_bytes) for uuid, size_bytes in smallest.items()}
        self._in_force = {gpu.uuid: self._of(gpu) for gpu in gpus}

    @property
    def in_force(self) -> Mapping[GpuUuid, int]:
        """The capacity of each device in bytes."""
        return dict(self._in_force)

    def external(self, gpu: GpuUuid) -> int | None:
        """What is held outside on a device, in bytes, as it counts; None: NVML has never said."""
        outside = self._outside.get(gpu)
        return None if outside is None else outside.in_force_bytes

    def note(self, readings: Iterable[GpuReading], held: Held, now_ns: int) -> list[CapacityChange]:
        """Take a round of readings in."""
        for uuid, size_bytes in _measured(readings, held):
            if uuid in self._outside:
                self._outside[uuid].note(size_bytes, now_ns)
            else:
                self._outside[uuid] = Outside(size_bytes)
        return self._changes("external")

    def configure(self, config: DaemonConfig) -> list[CapacityChange]:
        """Go by other settings from now on; they must have passed `check_devices`."""
        self._config = config
        return self._changes("configuration")

    def _changes(self, reason: str) -> list[CapacityChange]:
        changes = []
        for gpu in self._gpus:
            old_bytes, new_bytes = self._in_force[gpu.uuid], self._of(gpu)
            if old_bytes != new_bytes:
                self._in_force[gpu.uuid] = new_bytes
                changes.append(
                    CapacityChange(
                        gpu=gpu.uuid,
                        old_bytes=old_bytes,
                        new_bytes=new_bytes,
                        external_bytes=self.external(gpu.uuid),
                        reason=reason,
                    )
                )
        return changes

    def _of(self, gpu: Gpu) -> int:
        return of_device(self._config, gpu, self.external(gpu.uuid) or 0)


def _measured(readings: Iterable[GpuReading], held: Held) -> Iterable[tuple[GpuUuid, int]]:
    for reading in readings:
        size_bytes = outside_bytes(reading, held.get(reading.uuid, ()))
        if size_bytes is not None:
            yield reading.uuid, size_bytes
