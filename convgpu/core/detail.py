# SPDX-License-Identifier: Apache-2.0
"""What there is to know of one container beside its figures, which are in every snapshot. Field names are JSON's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from convgpu.core.events import LogEvent
from convgpu.core.status import WaitingStatus

SIZE_SOURCES: Final = ("runtime", "driver", "boundary")
"""Where the witness sees memory taken, the one nearest to the program first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDetail:
    """One container, looked at closely.

    Attributes:
        limit_source: `label`, `command` or `default`; None: nobody guards it, it has no limit.
        sizes: Allocations that the witness saw since the daemon started, by source: the key n of a histogram counts
            sizes of at least 2^n bytes and below 2^(n+1). The same memory may be seen at several sources, so they are
            never added up. None: no witness runs.
        waiting: What waits, and what would let it go on.
        decisions: The last that was decided about it, oldest first.
    """

    container_id: str
    name: str
    limit_source: str | None
    sizes: dict[str, dict[int, int]] | None
    waiting: tuple[WaitingStatus, ...]
    decisions: tuple[LogEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailArguments:
    """Arguments of `container_detail`.

    Attributes:
        container: By name, id or a prefix of the id.
        decisions: How many of the last decisions are wanted.
        topics: What they may be about (`convgpu.core.events.TOPICS`).
    """

    container: str
    decisions: int = 20
    topics: tuple[str, ...] = field(default=("decision", "start", "limit", "container", "finding"))
