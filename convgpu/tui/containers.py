# SPDX-License-Identifier: Apache-2.0
"""The table of containers: one row for each container and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from convgpu.core.status import ContainerStatus, DeviceUsage, Snapshot
from convgpu.tui import figures
from convgpu.tui.columns import Column
from convgpu.tui.glyphs import Glyphs, bar

RUNNING: Final = "running"
SUSPENDED: Final = "suspended"
OVER: Final = "over"
ESTIMATED: Final = "estimated"

_NEARLY_FULL_PERCENT: Final = 90


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """One container on one device; `device` is None while it uses none."""

    container: ContainerStatus
    device: DeviceUsage | None

    @property
    def state(self) -> str:
        """Docker's word, or ConvGPU's where that says more.

        `over`: it holds more than a lowered limit; `suspended`: it waits; `estimated`: its figures are estimates. What
        the three-way check found, such as `bypass`, goes before all of them, the gravest first.
        """
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
        return () if self.device is None else self.container.findings_on(self.device.uuid)

    @property
    def style(self) -> str:
        """How the row looks; what it means is said by `state` in words."""
        if self.findings:
            return "bold red"
        return {RUNNING: "", SUSPENDED: "yellow", ESTIMATED: "yellow", OVER: "red"}.get(self.state, "dim")


def container_rows(snapshot: Snapshot) -> list[ContainerRow]:
    """Return the rows in the snapshot's order."""
    return [
        ContainerRow(container, device)
        for container in snapshot.containers
        for device in (container.devices or (None,))
    ]


def _of(device_text: Callable[[DeviceUsage], str]) -> Callable[[ContainerRow], str]:
    """Make a column's text of what it says of a device; without a device nothing is known."""
    return lambda row: figures.UNKNOWN if row.device is None else device_text(row.device)


def _usage(device: DeviceUsage) -> str:
    used, limit = figures.size(device.used_bytes), figures.size(device.limit_bytes)
    return f"{used:>{figures.SIZE_WIDTH}} / {limit:>{figures.SIZE_WIDTH}}"


def _bar(row: ContainerRow, width: int, glyphs: Glyphs) -> Text:
    device = row.device
    if device is None:
        return Text(" " * width)
    nearly_full = (device.used_bytes or 0) * 100 >= (device.limit_bytes or 0) * _NEARLY_FULL_PERCENT
    style = row.style or ("yellow" if nearly_full else "green")
    return bar(device.used_bytes, device.assigned_bytes, device.limit_bytes, width, glyphs, style)


def _process_count(row: ContainerRow) -> str:
    return str(len(row.container.processes if row.device is None else row.device.processes))


_SIZE: Final = figures.SIZE_WIDTH
_NAME = Column[ContainerRow]("CONTAINER", 10, lambda row: row.container.name, widest=24)
_GPU = Column[ContainerRow]("GPU", 3, _of(lambda device: str(device.index)), right=True)
_USAGE = Column[ContainerRow]("MEM USAGE / LIMIT", 2 * _SIZE + 3, _of(_usage), right=True)
_PERCENT = Column[ContainerRow](
    "MEM%", 4, _of(lambda device: figures.percent(device.used_bytes, device.limit_bytes)), right=True, widest=5
)
_BAR = Column[ContainerRow]("", 6, draw=_bar, widest=20)
_PEAK = Column[ContainerRow]("PEAK", _SIZE, _of(lambda device: figures.size(device.peak_bytes)), right=True)
_PROCESSES = Column[ContainerRow]("PROCS", 5, _process_count, right=True)
_WAITING = Column[ContainerRow]("WAIT", 4, _of(lambda device: str(device.waiting)), right=True)
_DENIED = Column[ContainerRow]("DENIED", 6, _of(lambda device: str(device.denied)), right=True)
_STATE = Column[ContainerRow]("STATE", 9, lambda row: row.state, widest=10)
_ASSIGNED = Column[ContainerRow]("ASSIGNED", 8, _of(lambda device: figures.size(device.assigned_bytes)), right=True)
_WITNESS = Column[ContainerRow]("WITNESS", _SIZE, _of(lambda device: figures.size(device.witness_bytes)), right=True)
_NVML = Column[ContainerRow]("NVML", _SIZE, _of(lambda device: figures.size(device.nvml_bytes)), right=True)
_GUARANTEE = Column[ContainerRow]("GUARANTEE", 9, _of(lambda device: figures.size(device.guarantee_bytes)), right=True)
_SUSPENDED = Column[ContainerRow]("SUSPENDED", 9, _of(lambda device: figures.duration(device.suspended_ms)), right=True)
_IMAGE = Column[ContainerRow]("IMAGE", 12, lambda row: row.container.image, widest=32)

_GROUP = Column[ContainerRow]("GROUP", 8, lambda row: row.container.group or "", widest=24, optional=True)

SHOWN: Final = (
    _NAME, _GROUP, _GPU, _USAGE, _PERCENT, _BAR, _PEAK, _ASSIGNED, _GUARANTEE, _WITNESS, _NVML,
    _PROCESSES, _WAITING, _SUSPENDED, _DENIED, _STATE, _IMAGE,
)  # fmt: skip
"""Every column, in the order in which they stand."""

IMPORTANCE: Final = (
    _NAME, _USAGE, _STATE, _PERCENT, _GPU, _WAITING, _BAR, _PEAK, _DENIED, _PROCESSES,
    _GROUP, _ASSIGNED, _WITNESS, _NVML, _GUARANTEE, _SUSPENDED, _IMAGE,
)  # fmt: skip
"""Every column, in the order in which a narrow screen keeps them; the first ten fill 80 columns exactly."""
