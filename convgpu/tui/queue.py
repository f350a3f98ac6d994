# SPDX-License-Identifier: Apache-2.0
"""The queue: who waits, for what, how long, and who is next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from convgpu.core.status import Snapshot, WaitingStatus
from convgpu.tui import figures
from convgpu.tui.columns import Column


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One suspended request, and the index of its device where the snapshot knows the device."""

    request: WaitingStatus
    gpu_index: int | None


def queue_rows(snapshot: Snapshot) -> list[QueueRow]:
    """Return the suspended requests, the next one first, and after them the containers that wait for their start."""
    indices = {gpu.uuid: gpu.index for gpu in snapshot.gpus}
    ordered = sorted(
        snapshot.queue,
        key=lambda request: (request.kind == "start", indices.get(request.uuid, -1), request.position),
    )
    return [QueueRow(request, indices.get(request.uuid)) for request in ordered]


_POSITION = Column[QueueRow]("QUEUE", 5, lambda row: str(row.request.position), right=True)
_NAME = Column[QueueRow]("CONTAINER", 10, lambda row: row.request.container_name, widest=24)
_GPU = Column[QueueRow]("GPU", 3, lambda row: figures.optional(row.gpu_index), right=True)
_WANTS = Column[QueueRow]("WANTS", figures.SIZE_WIDTH, lambda row: figures.size(row.request.size_bytes), right=True)
_WAITED = Column[QueueRow]("WAITED", 6, lambda row: figures.duration(row.request.waited_ms), right=True)
_PID = Column[QueueRow](
    "PID", 7, lambda row: "start" if row.request.kind == "start" else figures.optional(row.request.pid), right=True
)

_FULL = Column[QueueRow]("FULL GROUP", 10, lambda row: row.request.full_group or "", widest=24, optional=True)

SHOWN: Final = (_POSITION, _NAME, _GPU, _WANTS, _WAITED, _PID, _FULL)
IMPORTANCE: Final = (_POSITION, _NAME, _WANTS, _WAITED, _GPU, _FULL, _PID)
