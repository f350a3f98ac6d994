# SPDX-License-Identifier: Apache-2.0
"""The table of containers: one row for each container and device, and in the tree one for each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from convgpu.core.status import ContainerStatus, DeviceUsage, ProcessStatus, Snapshot
from convgpu.tui import figures
from convgpu.tui.braille import area
from convgpu.tui.columns import Column
from convgpu.tui.glyphs import Glyphs, bar
from convgpu.tui.history import History
from convgpu.tui.state import RowKey

RUNNING: Final = "running"
SUSPENDED: Final = "suspended"
OVER: Final = "over"
ESTIMATED: Final = "estimated"

STATES: Final[Mapping[str, str]] = {
    "tampered": "found: the library's account was written into",
    "bypass": "found: it holds more than the library said",
    "unwrapped": "found: it holds memory without ConvGPU's library",
    "mismatch": "found: ledger, witness and NVML differ otherwise",
    OVER: "it holds more than its limit, which was lowered",
    SUSPENDED: "an allocation waits",
    ESTIMATED: "its figures are estimates: the driver allocates in a form that cannot be read",
    RUNNING: "none of these; any other word is Docker's",
}
"""What STATE says, the gravest first: that one is shown."""

_NEARLY_FULL_PERCENT: Final = 90


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """One container on one device; `device` is None while it uses none.

    Attributes:
        samples: What it held, oldest first.
        process: A process of it; None: the row is about all of them.
        prefix: What stands before a process, to hang it below its container.
    """

    container: ContainerStatus
    device: DeviceUsage | None
    samples: Sequence[int | None] = ()
    process: ProcessStatus | None = None
    prefix: str = ""

    @property
    def key(self) -> RowKey:
        """What the row is about, whatever its place."""
        return RowKey(self.container.container_id, None if self.device is None else self.device.uuid)

    @property
    def state(self) -> str:
        """Docker's word, or ConvGPU's where that says more; see `STATES`."""
        device = self.device
        if self.findings:
            return self.findings[0]
        if device is None or self.container.state != RUNNING:
            return self.container.state
        if device.used_bytes is not None and device.limit_bytes is not None and device.used_bytes > device.limit_bytes:
            return OVER
        if device.waiting:
            return SUSPENDED
        return ESTIMATED if device.estimated else RUNNING

    @property
    def findings(self) -> tuple[str, ...]:
        """What was found about it on this device."""
        if self.device is None or not self.container.findings:
            return ()
        return self.container.findings_on(self.device.uuid)

    @property
    def style(self) -> str:
        """How the row looks; what it means is said by `state` in words."""
        if self.process is not None:
            return "dim"
        if self.findings:
            return "bold red"
        return {RUNNING: "", SUSPENDED: "yellow", ESTIMATED: "yellow", OVER: "red"}.get(self.state, "dim")


def container_rows(snapshot: Snapshot, history: History | None = None) -> list[ContainerRow]:
    """Return the rows in the snapshot's order."""
    return [
        ContainerRow(
            container,
            device,
            () if history is None or device is None else history.used_bytes(container.container_id, device.uuid),
        )
        for container in snapshot.containers
        for device in (container.devices or (None,))
    ]


def with_processes(row: ContainerRow, glyphs: Glyphs) -> list[ContainerRow]:
    """Return a row and, below it, those of its processes."""
    processes = row.container.processes if row.device is None else row.device.processes
    last = len(processes) - 1
    return [
        row,
        *(
            ContainerRow(
                row.container, row.device, (), process, glyphs.last_branch if number == last else glyphs.branch
            )
            for number, process in enumerate(processes)
        ),
    ]


def _of(
    device_text: Callable[[DeviceUsage], str], process_text: Callable[[ProcessStatus], str] | None = None
) -> Callable[[ContainerRow], str]:
    """Make a column's text of what it says of a device, and of a process; without a device nothing is known."""

    def text(row: ContainerRow) -> str:
        if row.process is not None:
            return "" if process_text is None else process_text(row.process)
        return figures.UNKNOWN if row.device is None else device_text(row.device)

    return text


def _name(row: ContainerRow) -> str:
    process = row.process
    return row.container.name if process is None else f"{row.prefix}{process.pid} {process.comm or figures.UNKNOWN}"


def _usage(row: ContainerRow, width: int, _: Glyphs) -> Text:
    """What it holds of its limit; the slash stands apart where there is room."""
    slash = " / " if width >= _USAGE_WIDEST else "/"
    limit = "" if row.device is None else f"{figures.size(row.device.limit_bytes):>{_SIZE}}"
    if row.process is not None:
        text = f"{figures.size(row.process.used_bytes):>{_SIZE}}" + " " * (len(slash) + _SIZE)
    elif row.device is None:
        text = f"{figures.UNKNOWN:>{_SIZE}}{slash}{figures.UNKNOWN:>{_SIZE}}"
    else:
        text = f"{figures.size(row.device.used_bytes):>{_SIZE}}{slash}{limit}"
    return Text(f"{text[:width]:>{max(0, width)}}", style=row.style)


def _bar(row: ContainerRow, width: int, glyphs: Glyphs) -> Text:
    device = row.device
    if device is None or row.process is not None:
        return Text(" " * width)
    nearly_full = (device.used_bytes or 0) * 100 >= (device.limit_bytes or 0) * _NEARLY_FULL_PERCENT
    style = row.style or ("yellow" if nearly_full else "green")
    return bar(device.used_bytes, device.assigned_bytes, device.limit_bytes, width, glyphs, style)


def _trend(row: ContainerRow, width: int, glyphs: Glyphs) -> Text:
    limit_bytes = None if row.device is None else row.device.limit_bytes
    (line,) = area(row.samples, limit_bytes, width, 1, glyphs)
    return Text(line, style=row.style or "cyan")


def _process_count(row: ContainerRow) -> str:
    if row.process is not None:
        return ""
    return str(len(row.container.processes if row.device is None else row.device.processes))


def _state(row: ContainerRow) -> str:
    if row.process is None:
        return row.state
    return ESTIMATED if row.process.estimated else ""


_SIZE: Final = figures.SIZE_WIDTH
_USAGE_WIDEST: Final = 2 * _SIZE + 3
NAME = Column[ContainerRow](
    "CONTAINER", 9, _name, widest=32, first=13,
    meaning="Docker's name; in the tree, below it, pid and name of each process",
)  # fmt: skip
GPU = Column[ContainerRow](
    "GPU", 3, _of(lambda device: str(device.index)), right=True, meaning="index of the device; one row for each"
)
USAGE = Column[ContainerRow](
    "MEM USAGE / LIMIT", 2 * _SIZE + 1, draw=_usage, right=True, widest=_USAGE_WIDEST, narrow="MEM USAGE/LIMIT",
    meaning="what it holds, by ConvGPU's ledger, and the most that it may",
)  # fmt: skip
PERCENT = Column[ContainerRow](
    "MEM%", 4, _of(lambda device: figures.percent(device.used_bytes, device.limit_bytes)), right=True, widest=5,
    meaning="what it holds as a share of its limit, rounded down",
)  # fmt: skip
BAR = Column[ContainerRow](
    "", 3, draw=_bar, widest=20, meaning="a bar: what it holds, what is set aside for it beyond that, and its limit"
)
PEAK = Column[ContainerRow](
    "PEAK", _SIZE, _of(lambda device: figures.size(device.peak_bytes)), right=True, meaning="the most it held so far"
)
PROCESSES = Column[ContainerRow]("PROCS", 5, _process_count, right=True, meaning="its processes on the device")
WAITING = Column[ContainerRow](
    "WAIT", 4, _of(lambda device: str(device.waiting)), right=True, meaning="its allocations that wait now"
)
DENIED = Column[ContainerRow](
    "DENIED", 6, _of(lambda device: str(device.denied)), right=True,
    meaning="its requests that were denied since it started",
)  # fmt: skip
TREND = Column[ContainerRow](
    "TREND", 5, draw=_trend, widest=30,
    meaning="what it held as a share of its limit, a sample for each refresh since the monitor runs, the newest right",
)  # fmt: skip
STATE = Column[ContainerRow]("STATE", 9, _state, widest=10, meaning="the gravest that is to be said of it; see below")
ASSIGNED = Column[ContainerRow](
    "ASSIGNED", 8, _of(lambda device: figures.size(device.assigned_bytes)), right=True,
    meaning="what is set aside for it now",
)  # fmt: skip
WITNESS = Column[ContainerRow](
    "WITNESS", _SIZE,
    _of(lambda device: figures.size(device.witness_bytes), lambda process: figures.size(process.witness_bytes)),
    right=True, meaning="what it holds as the eBPF witness saw it at the driver's boundary",
)  # fmt: skip
NVML = Column[ContainerRow](
    "NVML", _SIZE,
    _of(lambda device: figures.size(device.nvml_bytes), lambda process: figures.size(process.nvml_bytes)),
    right=True, meaning="what NVML reports for its processes",
)  # fmt: skip
GUARANTEE = Column[ContainerRow](
    "GUARANTEE", 9, _of(lambda device: figures.size(device.guarantee_bytes)), right=True,
    meaning="what is set aside for it from its start",
)  # fmt: skip
SUSPENDED_TIME = Column[ContainerRow](
    "SUSPENDED", 9, _of(lambda device: figures.duration(device.suspended_ms)), right=True,
    meaning="how long its requests have waited, summed",
)  # fmt: skip
IMAGE = Column[ContainerRow](
    "IMAGE", 12, lambda row: "" if row.process else row.container.image, widest=32, meaning="what it was started from"
)

GROUP = Column[ContainerRow](
    "GROUP", 8, lambda row: "" if row.process else row.container.group or "", widest=24,
    when=lambda rows: any(row.container.group for row in rows),
    meaning="with whose containers it shares a quota; there is no such column where none does",
)  # fmt: skip

SHOWN: Final = (
    NAME, GROUP, GPU, USAGE, PERCENT, BAR, PEAK, ASSIGNED, GUARANTEE, WITNESS, NVML,
    PROCESSES, WAITING, SUSPENDED_TIME, DENIED, TREND, STATE, IMAGE,
)  # fmt: skip
"""Every column, in the order in which they stand."""

IMPORTANCE: Final = (
    NAME, USAGE, STATE, PERCENT, GPU, WAITING, PEAK, TREND, DENIED, PROCESSES, BAR,
    GROUP, ASSIGNED, WITNESS, NVML, GUARANTEE, SUSPENDED_TIME, IMAGE,
)  # fmt: skip
"""Every column, in the order in which a narrow screen keeps them; the first eleven fill 80 columns exactly."""
