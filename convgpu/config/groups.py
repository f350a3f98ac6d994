# SPDX-License-Identifier: Apache-2.0
"""Limits of groups as the configuration has them: by group, then for all GPUs or for single ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from convgpu.config.forms import NoLimit
from convgpu.core.amount import Amount
from convgpu.core.identity import GpuUuid, GroupName

GROUP_TABLE: Final = "groups"
"""The table of the file that holds a table for each group."""
GROUP_LIMIT: Final = "limit"
"""The one key of a group."""
ALL_GPUS: Final = ""
"""Stands for the GPU, where a limit holds for all that have none of their own."""

_FULL_NAME: Final = re.compile(rf"{GROUP_TABLE}\.([^.]+)(?:\.device\.([^.]+))?\.{GROUP_LIMIT}")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
"""What TOML takes as the name of a table without quotes."""

GroupSettings = Mapping[GroupName, Mapping[str, Amount | NoLimit]]
"""By group, then by GPU: UUID, NVML index as text, or ALL_GPUS."""


class Device(Protocol):
    """What must be known of a GPU."""

    @property
    def uuid(self) -> GpuUuid:
        """NVML's."""

    @property
    def index(self) -> int:
        """NVML's."""

    @property
    def total_bytes(self) -> int:
        """All of its memory."""


def full_name(group: str, gpu: str) -> str:
    """Return a limit's name among all settings, such as `groups.lab/team.limit`."""
    device = f".device.{gpu}" if gpu else ""
    return f"{GROUP_TABLE}.{group}{device}.{GROUP_LIMIT}"


def split_name(name: str) -> tuple[GroupName, str] | None:
    """Return the group and the GPU of a limit's full name; None: the name is another setting's."""
    match = _FULL_NAME.fullmatch(name)
    return None if match is None else (GroupName(match[1]), match[2] or ALL_GPUS)


def table_of(group: str, gpu: str) -> str:
    """Return the header of the table in which a limit stands."""
    quoted = group if _BARE.fullmatch(group) else f'"{group}"'
    device = f".device.{gpu}" if gpu else ""
    return f"{GROUP_TABLE}.{quoted}{device}"


def limit_of(settings: Mapping[str, Amount | NoLimit], device: Device) -> int | None:
    """Return a group's limit on one GPU in bytes: by its UUID, then its index, then for all; None: it has none."""
    for name in (device.uuid, str(device.index), ALL_GPUS):
        if name in settings:
            amount = settings[name]
            return amount.of(device.total_bytes) if isinstance(amount, Amount) else None
    return None
