# SPDX-License-Identifier: Apache-2.0
"""The table of devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from convgpu.core.status import GpuStatus, Snapshot
from convgpu.tui import figures
from convgpu.tui.braille import area
from convgpu.tui.columns import Column
from convgpu.tui.glyphs import Glyphs, bar
from convgpu.tui.history import History


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One device, and what was used on it, oldest first."""

    gpu: GpuStatus
    samples: Sequence[int | None] = ()


def gpu_rows(snapshot: Snapshot, history: History) -> list[GpuRow]:
    """Return the rows."""
    return [GpuRow(gpu, history.used_bytes(None, gpu.uuid)) for gpu in snapshot.gpus]


def _bar(row: GpuRow, width: int, glyphs: Glyphs) -> Text:
    return bar(row.gpu.used_bytes, row.gpu.assigned_bytes, row.gpu.capacity_bytes, width, glyphs, "cyan")


def _trend(row: GpuRow, width: int, glyphs: Glyphs) -> Text:
    (line,) = area(row.samples, row.gpu.total_bytes, width, 1, glyphs)
    return Text(line, style="cyan")


_SIZE: Final = figures.SIZE_WIDTH
INDEX = Column[GpuRow]("GPU", 3, lambda row: str(row.gpu.index), right=True, meaning="NVML's index")
MODEL = Column[GpuRow]("MODEL", 10, lambda row: row.gpu.name, widest=32, meaning="what the driver calls it")
USED = Column[GpuRow](
    "USED", _SIZE, lambda row: figures.size(row.gpu.used_bytes), right=True, meaning="all that is in use, by NVML"
)
ASSIGNED = Column[GpuRow](
    "ASSIGNED", 8, lambda row: figures.size(row.gpu.assigned_bytes), right=True,
    meaning="what is set aside for containers",
)  # fmt: skip
CAPACITY = Column[GpuRow](
    "CAPACITY",
    8,
    lambda row: figures.size(row.gpu.capacity_bytes),
    right=True,
    meaning="what containers may be assigned",
)
EXTERNAL = Column[GpuRow](
    "EXTERNAL", 8, lambda row: figures.size(row.gpu.external_bytes), right=True,
    meaning="what is held outside ConvGPU: other programs, and the driver itself",
)  # fmt: skip
FREE = Column[GpuRow](
    "FREE", _SIZE, lambda row: figures.size(max(0, row.gpu.capacity_bytes - row.gpu.assigned_bytes)), right=True,
    meaning="what may still be assigned",
)  # fmt: skip
UTILIZATION = Column[GpuRow](
    "UTIL", 4, lambda row: figures.optional(row.gpu.utilization_percent, "%"), right=True,
    meaning="part of the time in which something ran on it, by NVML",
)  # fmt: skip
TEMPERATURE = Column[GpuRow](
    "TEMP", 5, lambda row: figures.optional(row.gpu.temperature_c, " C"), right=True, meaning="of the chip"
)
BAR = Column[GpuRow](
    "", 8, draw=_bar, widest=40, meaning="a bar: what is used, what is assigned beyond that, and the capacity"
)
TREND = Column[GpuRow](
    "TREND", 8, draw=_trend, widest=30, meaning="what was used as a share of its memory, a sample for each refresh"
)
TOTAL = Column[GpuRow](
    "TOTAL", _SIZE, lambda row: figures.size(row.gpu.total_bytes), right=True, meaning="all of its memory"
)
UUID = Column[GpuRow]("UUID", 40, lambda row: row.gpu.uuid, meaning="the name that stays")

SHOWN: Final = (
    INDEX, MODEL, USED, ASSIGNED, FREE, CAPACITY, EXTERNAL, TOTAL, BAR, TREND, UTILIZATION, TEMPERATURE, UUID,
)  # fmt: skip
IMPORTANCE: Final = (
    INDEX, USED, ASSIGNED, FREE, EXTERNAL, UTILIZATION, TEMPERATURE, MODEL, BAR, CAPACITY, TREND, TOTAL, UUID,
)  # fmt: skip
