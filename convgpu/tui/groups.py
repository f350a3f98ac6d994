# SPDX-License-Identifier: Apache-2.0
"""The table of groups: containers that share a quota, a row for each device on which there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.text import Text

from convgpu.core.status import GroupStatus, GroupUsage, Snapshot
from convgpu.tui import figures
from convgpu.tui.columns import Column
from convgpu.tui.containers import OVER, RUNNING, SUSPENDED
from convgpu.tui.glyphs import Glyphs, bar

FULL: Final = "full"
_STATES: Final = {RUNNING: "", SUSPENDED: "yellow", FULL: "yellow", OVER: "red"}


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group on one device."""

    group: GroupStatus
    usage: GroupUsage

    @property
    def state(self) -> str:
        """What is to be said of it in a word: `over`, `full`, `suspended` or `running`."""
        usage = self.usage
        if usage.over:
            return OVER
        if usage.limit_bytes is not None and usage.assigned_bytes >= usage.limit_bytes:
            return FULL
        return SUSPENDED if usage.waiting else RUNNING

    @property
    def style(self) -> str:
        """How the row looks; what it means is said by `state`."""
        return _STATES[self.state]


def group_rows(snapshot: Snapshot) -> list[GroupRow]:
    """Return a row for each group and device where it bounds something or has something."""
    return [
        GroupRow(group, usage)
        for group in snapshot.groups
        for usage in group.devices
        if usage.limit_bytes is not None or usage.assigned_bytes or usage.waiting
    ]


def _free(row: GroupRow) -> str:
    usage = row.usage
    return "no limit" if usage.limit_bytes is None else figures.size(max(0, usage.limit_bytes - usage.assigned_bytes))


def _bar(row: GroupRow, width: int, glyphs: Glyphs) -> Text:
    usage = row.usage
    return bar(usage.used_bytes, usage.assigned_bytes, usage.limit_bytes, width, glyphs, row.style or "cyan")


def _limit(row: GroupRow) -> str:
    return "no limit" if row.usage.limit_bytes is None else figures.size(row.usage.limit_bytes)


_SIZE: Final = figures.SIZE_WIDTH
NAME = Column[GroupRow](
    "GROUP", 10, lambda row: row.group.name, widest=32, meaning="its name; `lab/team` is a group in `lab`"
)
GPU = Column[GroupRow]("GPU", 3, lambda row: str(row.usage.index), right=True, meaning="on which device")
USED = Column[GroupRow](
    "USED", _SIZE, lambda row: figures.size(row.usage.used_bytes), right=True,
    meaning="what its containers hold, those of groups in it included",
)  # fmt: skip
ASSIGNED = Column[GroupRow](
    "ASSIGNED", 8, lambda row: figures.size(row.usage.assigned_bytes), right=True, meaning="what is set aside for them"
)
LIMIT = Column[GroupRow]("LIMIT", 8, _limit, right=True, meaning="the most that they may be assigned together")
FREE = Column[GroupRow]("FREE", 8, _free, right=True, meaning="what they may still be assigned, if the device has it")
BAR = Column[GroupRow](
    "", 6, draw=_bar, widest=30, meaning="a bar: what they hold, what is assigned beyond that, and the limit"
)
MEMBERS = Column[GroupRow](
    "CONTAINERS",
    10,
    lambda row: str(len(row.group.containers)),
    right=True,
    meaning="how many they are, on all devices",
)
WAITING = Column[GroupRow](
    "WAIT", 4, lambda row: str(row.usage.waiting), right=True, meaning="their allocations that wait"
)
STATE = Column[GroupRow](
    "STATE", 9, lambda row: row.state,
    meaning="`over`: more is assigned than the limit, which was lowered; `full`: all of it is; or as of containers",
)  # fmt: skip
SOURCE = Column[GroupRow](
    "LIMIT BY", 13, lambda row: row.usage.source or "", meaning="where the limit comes from: command or configuration"
)

SHOWN: Final = (NAME, GPU, USED, ASSIGNED, LIMIT, FREE, BAR, MEMBERS, WAITING, STATE, SOURCE)
IMPORTANCE: Final = (NAME, USED, LIMIT, STATE, GPU, ASSIGNED, WAITING, FREE, MEMBERS, BAR, SOURCE)
