# SPDX-License-Identifier: Apache-2.0
"""The queue: who waits, for what, how long, in which place, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from convgpu.core.status import GpuStatus, Snapshot, WaitingStatus
from convgpu.core.units import format_size
from convgpu.tui import figures
from convgpu.tui.columns import Column


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One that waits, and its device where the snapshot knows it."""

    request: WaitingStatus
    gpu: GpuStatus | None

    @property
    def gpu_index(self) -> int | None:
        """The device's index."""
        return None if self.gpu is None else self.gpu.index

    @property
    def why(self) -> str:
        """What stands in the way, as far as the snapshot tells; the close look has what would let it go on."""
        request = self.request
        if request.goes_on is not None:
            return request.goes_on
        if self.gpu is None or request.need_bytes is None:
            return figures.UNKNOWN
        if request.full_group is not None:
            return f"group {request.full_group} has no room for {format_size(request.need_bytes)} more"
        free_bytes = max(0, self.gpu.capacity_bytes - self.gpu.assigned_bytes)
        if request.need_bytes > free_bytes:
            return f"{format_size(request.need_bytes)} more must be free, {format_size(free_bytes)} are"
        if request.position > 1:
            return "others are served first"
        return f"{format_size(free_bytes)} are free, and kept so that others can finish"


def queue_rows(snapshot: Snapshot) -> list[QueueRow]:
    """Return the suspended requests, the next one first, and after them the containers that wait for their start."""
    gpus = {gpu.uuid: gpu for gpu in snapshot.gpus}
    indices = {gpu.uuid: gpu.index for gpu in snapshot.gpus}
    ordered = sorted(
        snapshot.queue,
        key=lambda request: (request.kind == "start", indices.get(request.uuid, -1), request.position),
    )
    return [QueueRow(request, gpus.get(request.uuid)) for request in ordered]


def _who(row: QueueRow) -> str:
    return "start" if row.request.kind == "start" else figures.optional(row.request.pid)


def _left(row: QueueRow) -> str:
    return "no end" if row.request.left_ms is None else figures.duration(row.request.left_ms)


def _passed(row: QueueRow) -> str:
    return f"{row.request.passed}{' !' if row.request.overdue else ''}"


_SIZE: Final = figures.SIZE_WIDTH
POSITION = Column[QueueRow](
    "QUEUE", 5, lambda row: str(row.request.position), right=True, meaning="the place in which it would be served"
)
NAME = Column[QueueRow]("CONTAINER", 10, lambda row: row.request.container_name, widest=24, meaning="who waits")
GPU = Column[QueueRow]("GPU", 3, lambda row: figures.optional(row.gpu_index), right=True, meaning="on which device")
WANTS = Column[QueueRow](
    "WANTS", _SIZE, lambda row: figures.size(row.request.size_bytes), right=True, meaning="what was asked for"
)
LACKS = Column[QueueRow](
    "LACKS", _SIZE, lambda row: figures.size(row.request.need_bytes), right=True,
    meaning="what its container would have to be assigned more",
)  # fmt: skip
WAITED = Column[QueueRow](
    "WAITED", 6, lambda row: figures.duration(row.request.waited_ms), right=True, meaning="for how long"
)
PID = Column[QueueRow]("PID", 7, _who, right=True, meaning="the process that asked, or that a container starts")
WHY = Column[QueueRow]("WHY", 34, lambda row: row.why, widest=120, meaning="what stands in the way")
LEFT = Column[QueueRow]("LEFT", 6, _left, right=True, meaning="time until it is denied")
PASSED = Column[QueueRow](
    "PASSED", 6, _passed, right=True, meaning="how often it was passed over; `!`: not once more, it is at the head"
)
PLACE = Column[QueueRow](
    "PLACE", 20, lambda row: row.request.place or figures.UNKNOWN, widest=60, meaning="what gives it its place"
)

SHOWN: Final = (POSITION, NAME, GPU, WANTS, LACKS, WAITED, LEFT, PASSED, PID, WHY, PLACE)
IMPORTANCE: Final = (POSITION, NAME, WANTS, WAITED, GPU, WHY, PID, LACKS, LEFT, PASSED, PLACE)
DETAIL: Final = (POSITION, GPU, WANTS, LACKS, WAITED, LEFT, PASSED, PID)
"""The columns of the close look, which says the rest in sentences."""
