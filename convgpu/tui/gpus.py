# SPDX-License-Identifier: Apache-2.0
"""The table of devices."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from convgpu.core.status import GpuStatus
from convgpu.tui import figures
from convgpu.tui.columns import Column
from convgpu.tui.glyphs import Glyphs, bar


def _bar(gpu: GpuStatus, width: int, glyphs: Glyphs) -> Text:
    return bar(gpu.used_bytes, gpu.assigned_bytes, gpu.capacity_bytes, width, glyphs, "cyan")


def _temperature(gpu: GpuStatus) -> str:
    return figures.optional(gpu.temperature_c, " C")


_SIZE: Final = figures.SIZE_WIDTH
_INDEX = Column[GpuStatus]("GPU", 3, lambda gpu: str(gpu.index), right=True)
_MODEL = Column[GpuStatus]("MODEL", 10, lambda gpu: gpu.name, widest=32)
_USED = Column[GpuStatus]("USED", _SIZE, lambda gpu: figures.size(gpu.used_bytes), right=True)
_ASSIGNED = Column[GpuStatus]("ASSIGNED", 8, lambda gpu: figures.size(gpu.assigned_bytes), right=True)
_CAPACITY = Column[GpuStatus]("CAPACITY", 8, lambda gpu: figures.size(gpu.capacity_bytes), right=True)
_EXTERNAL = Column[GpuStatus]("EXTERNAL", 8, lambda gpu: figures.size(gpu.external_bytes), right=True)
_FREE = Column[GpuStatus](
    "FREE", _SIZE, lambda gpu: figures.size(max(0, gpu.capacity_bytes - gpu.assigned_bytes)), right=True
)
_UTILIZATION = Column[GpuStatus]("UTIL", 4, lambda gpu: figures.optional(gpu.utilization_percent, "%"), right=True)
_TEMPERATURE = Column[GpuStatus]("TEMP", 5, _temperature, right=True)
_BAR = Column[GpuStatus]("", 14, draw=_bar, widest=40)
_TOTAL = Column[GpuStatus]("TOTAL", _SIZE, lambda gpu: figures.size(gpu.total_bytes), right=True)
_UUID = Column[GpuStatus]("UUID", 40, lambda gpu: gpu.uuid)

SHOWN: Final = (
    _INDEX, _MODEL, _USED, _ASSIGNED, _FREE, _CAPACITY, _EXTERNAL, _TOTAL, _BAR, _UTILIZATION, _TEMPERATURE, _UUID,
)  # fmt: skip
IMPORTANCE: Final = (
    _INDEX, _USED, _ASSIGNED, _FREE, _CAPACITY, _EXTERNAL, _UTILIZATION, _BAR, _MODEL, _TEMPERATURE, _TOTAL, _UUID,
)  # fmt: skip
