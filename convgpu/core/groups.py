# SPDX-License-Identifier: Apache-2.0
"""Groups: containers that share one quota. Their names are a tree, and each of them may have a limit on each device.

`lab/team` is a part of `lab`: what is assigned to a container of it counts in both, and on the device. A group without
a limit sums and bounds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.errors import UsageError

SEPARATOR: Final = "/"
MOST_LEVELS: Final = 8
"""A decision costs more for each level with a limit; nobody has needed a third."""
MOST_CHARACTERS: Final = 128
"""A name is in every record of its group, and in a column of a table."""
NAME_FORM: Final = "letters, digits, _ and -, beginning with a letter or a digit; lab/team is a group in lab"

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)

GroupLimits = Mapping[GroupName, Mapping[GpuUuid, int]]
"""Limits in bytes, by group and device; a group or device that is not there has none."""


@dataclass(frozen=True, slots=True)
class GroupAccount:
    """One group on one device, for people.

    Attributes:
        limit_bytes: The most that its containers may be assigned together; None: it bounds nothing.
        assigned_bytes: What is set aside for all of them, those of groups in it included.
        used_bytes: What their processes hold, credit and calls in flight included.
        members: Containers with a quota on the device.
        waiting: Their suspended requests.
        over: More is assigned than the limit: it was lowered, or memory was taken by force. They get nothing more.
    """

    limit_bytes: int | None
    assigned_bytes: int
    used_bytes: int
    members: tuple[ContainerId, ...]
    waiting: int
    over: bool


def parse_group(text: str) -> GroupName:
    """Read the name of a group.

    Raises:
        UsageError: It is none; the message says what one looks like.
    """
    name = text.strip()
    parts = name.split(SEPARATOR)
    if not all(_PART.fullmatch(part) for part in parts):
        raise UsageError(f"'{text}' is not the name of a group: write {NAME_FORM}")
    if len(parts) > MOST_LEVELS or len(name) > MOST_CHARACTERS:
        raise UsageError(
            f"'{text}' is too long for a group: at most {MOST_LEVELS} levels and {MOST_CHARACTERS} characters"
        )
    return GroupName(name)


def path_of(group: GroupName | None) -> tuple[GroupName, ...]:
    """Return all groups that a container of this one is in, the outermost first; of None: none."""
    if group is None:
        return ()
    parts = group.split(SEPARATOR)
    return tuple(GroupName(SEPARATOR.join(parts[:level])) for level in range(1, len(parts) + 1))


def least_limit(limits: GroupLimits, path: Iterable[GroupName], gpu: GpuUuid) -> tuple[int, GroupName] | None:
    """Return the lowest limit on a path and whose it is; None: nothing bounds it."""
    found = [(limits[group][gpu], group) for group in path if gpu in limits.get(group, {})]
    return min(found, default=None, key=lambda each: each[0])
