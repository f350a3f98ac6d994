# SPDX-License-Identifier: Apache-2.0
"""Ledger, witness and NVML side by side: of a container on each device, and of each of its processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from convgpu.core.status import ContainerStatus, DeviceUsage, ProcessStatus
from convgpu.core.units import format_size
from convgpu.tui import figures
from convgpu.tui.columns import Column

AGREE: Final = "agree"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """Three opinions on one device; `process` is None where they are about the whole container."""

    device: DeviceUsage
    process: ProcessStatus | None = None

    @property
    def opinions(self) -> tuple[int | None, int | None, int | None]:
        """Ledger, witness, NVML."""
        each = self.device if self.process is None else self.process
        return each.used_bytes, each.witness_bytes, each.nvml_bytes

    @property
    def check(self) -> str:
        """Whether those that are known are the same. A call that is under way makes them differ for a moment."""
        known = [size_bytes for size_bytes in self.opinions if size_bytes is not None]
        if len(known) < 2:
            return figures.UNKNOWN
        apart_bytes = max(known) - min(known)
        if not apart_bytes:
            return AGREE if len(known) == len(self.opinions) else "agree, 1 N/A"
        return f"{format_size(apart_bytes)} apart"

    @property
    def notes(self) -> str:
        """What is to be known of the figures."""
        each = self.device if self.process is None else self.process
        notes = ["ledger estimated"] if each.estimated else []
        notes += ["witness came later: partly NVML's figure"] if each.witness_partial else []
        return ", ".join(notes)


def comparison_rows(container: ContainerStatus) -> list[ComparisonRow]:
    """Return the rows: of each device the container's, then its processes'."""
    return [ComparisonRow(device, process) for device in container.devices for process in (None, *device.processes)]


def style_of(row: ComparisonRow) -> str:
    """Return how a row looks; what it means is said in words."""
    weight = "bold" if row.process is None else ""
    return f"{weight} yellow".strip() if row.check.endswith("apart") else weight


def _who(row: ComparisonRow) -> str:
    return "all" if row.process is None else f"{row.process.pid} {row.process.comm or figures.UNKNOWN}"


_SIZE: Final = figures.SIZE_WIDTH
_WHO = Column[ComparisonRow]("PROCESS", 12, _who, widest=28)
_GPU = Column[ComparisonRow]("GPU", 3, lambda row: str(row.device.index), right=True)
_LEDGER = Column[ComparisonRow]("LEDGER", _SIZE, lambda row: figures.size(row.opinions[0]), right=True)
_WITNESS = Column[ComparisonRow]("WITNESS", _SIZE, lambda row: figures.size(row.opinions[1]), right=True)
_NVML = Column[ComparisonRow]("NVML", _SIZE, lambda row: figures.size(row.opinions[2]), right=True)
_CHECK = Column[ComparisonRow]("CHECK", 12, lambda row: row.check, widest=20)
_NOTES = Column[ComparisonRow](
    "NOTES", 16, lambda row: row.notes, widest=60, when=lambda rows: any(r.notes for r in rows)
)

SHOWN: Final = (_WHO, _GPU, _LEDGER, _WITNESS, _NVML, _CHECK, _NOTES)
IMPORTANCE: Final = (_WHO, _LEDGER, _WITNESS, _NVML, _GPU, _CHECK, _NOTES)
