# SPDX-License-Identifier: Apache-2.0
"""The labels of a container or its image that say what it may hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from convgpu.core.durations import parse_duration
from convgpu.core.groups import parse_group
from convgpu.core.identity import GroupName
from convgpu.core.units import format_size, parse_size
from convgpu.errors import UsageError

PREFIX: Final = "convgpu."
LABEL_LIMIT: Final = "convgpu.limit"
LABEL_GUARANTEE: Final = "convgpu.guarantee"
LABEL_WAIT: Final = "convgpu.wait"
LABEL_PRIORITY: Final = "convgpu.priority"
LABEL_ADMIT: Final = "convgpu.admit"
LABEL_GROUP: Final = "convgpu.group"
NAMES: Final = (LABEL_LIMIT, LABEL_GUARANTEE, LABEL_WAIT, LABEL_PRIORITY, LABEL_ADMIT, LABEL_GROUP)
LABEL_COMPOSE_PROJECT: Final = "com.docker.compose.project"
"""Compose's own; it may stand for a group (`group_by_compose_project`)."""
ADMIT_NOW: Final = "now"
ADMIT_WAIT: Final = "wait"

_T = TypeVar("_T")
_INTEGER: Final = re.compile(r"[+-]?\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """What the labels ask for.

    Attributes:
        limit_bytes: The most the container may hold on a device; None: the daemon's default.
        guarantee_bytes: What is set aside from the start; None: all of the limit.
        wait_ns: How long a suspended request waits before it is denied; None: without end. 0: nothing waits.
        priority: Higher is served first by the algorithm `priority`; 0 where no label says otherwise.
        admit_wait: The start waits until the whole guarantee is there. The runtime shim waits; `convgpu run` and plain
            `docker run` do not read it.
        group: The containers with which it shares a quota; None: none.
    """

    limit_bytes: int | None = None
    guarantee_bytes: int | None = None
    wait_ns: int | None = None
    priority: int = 0
    admit_wait: bool = False
    group: GroupName | None = None


def parse_guarantee(text: str) -> int:
    """Read a guarantee: a size as `parse_size` takes it, or 0 for nothing set aside.

    Raises:
        UsageError: Neither.
    """
    return 0 if text.strip() == "0" else parse_size(text)


def parse_priority(text: str) -> int:
    """Read a priority: a whole number of at most nine digits.

    Raises:
        UsageError: Anything else.
    """
    if not _INTEGER.fullmatch(text.strip()):
        raise UsageError(f"'{text}' is not a priority: write a whole number, such as 10 or -5")
    return int(text)


def parse_admit(text: str) -> bool:
    """Read when a container is admitted, `now` or `wait`; True: it waits.

    Raises:
        UsageError: Anything else.
    """
    if text.strip() not in (ADMIT_NOW, ADMIT_WAIT):
        raise UsageError(f"'{text}' is neither {ADMIT_NOW} nor {ADMIT_WAIT}")
    return text.strip() == ADMIT_WAIT


def parse_labels(labels: Mapping[str, str]) -> LabelSettings:
    """Read the settings from a container's labels (Docker has merged the image's labels into them).

    Raises:
        UsageError: A label has a bad value, or begins with `convgpu.` and is none of NAMES: a mistyped label must not
            let a container run without its limit. The message names the label.
    """
    unknown = sorted(name for name in labels if name.startswith(PREFIX) and name not in NAMES)
    if unknown:
        raise UsageError(f"label {unknown[0]}: no such label; there are {', '.join(NAMES)}")
    limit_bytes = _read(labels, LABEL_LIMIT, parse_size)
    guarantee_bytes = _read(labels, LABEL_GUARANTEE, parse_guarantee)
    if limit_bytes is not None and guarantee_bytes is not None and guarantee_bytes > limit_bytes:
        raise UsageError(
            f"label {LABEL_GUARANTEE}: {format_size(guarantee_bytes)} is more than the limit {format_size(limit_bytes)}"
        )
    return LabelSettings(
        limit_bytes=limit_bytes,
        guarantee_bytes=guarantee_bytes,
        wait_ns=_read(labels, LABEL_WAIT, parse_duration),
        priority=_read(labels, LABEL_PRIORITY, parse_priority) or 0,
        admit_wait=_read(labels, LABEL_ADMIT, parse_admit) or False,
        group=_read(labels, LABEL_GROUP, parse_group),
    )


def group_of(labels: Mapping[str, str], *, by_compose_project: bool) -> GroupName | None:
    """Return the group of a container: by its label, else by its compose project where that is to count.

    Raises:
        UsageError: A label names no group; the message names the label.
    """
    group = _read(labels, LABEL_GROUP, parse_group)
    if group is None and by_compose_project:
        group = _read(labels, LABEL_COMPOSE_PROJECT, parse_group)
    return group


def _read(labels: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T | None:
    if name not in labels:
        return None
    try:
        return parse(labels[name])
    except UsageError as error:
        raise UsageError(f"label {name}: {error.message}") from error
