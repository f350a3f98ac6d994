# SPDX-License-Identifier: Apache-2.0
"""What a live trace tells: an event of the witness with the names that the daemon knows. Field names are JSON's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALLOC: Final = "alloc"
FREE: Final = "free"
FAIL: Final = "fail"
KINDS: Final = (ALLOC, FREE, FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """One call that took, gave back or was refused memory.

    A `cudaMalloc` can be seen three times: at the runtime, at the driver, and at the boundary, where it takes memory.
    Sizes at different sources are never to be added up.

    Attributes:
        ts: When the call returned, RFC 3339, UTC, nanoseconds.
        mono_ns: The same by CLOCK_MONOTONIC.
        container_id: None: a process of the host.
        source: Where it was seen: `runtime`, `driver` or `boundary`.
        api: The call.
        kind: `alloc`, `free` or `fail`.
        size_bytes: At the boundary as the driver rounded it, elsewhere as asked for; of a free, all that it ended.
        latency_ns: Duration of the call.
        gpu: Index of the device; None: the call does not name one.
        stack: Where the call was made, the innermost first: `function+0x1f (file)`, `file+0x1f2e` where the file names
            no function there, an address where no file is known, as of a process that ended at once. None: stacks
            were not asked for. Empty: it was lost.
    """

    ts: str
    mono_ns: int
    container_id: str | None
    container_name: str | None
    pid: int
    tid: int
    comm: str
    source: str
    api: str
    kind: str
    size_bytes: int
    latency_ns: int
    gpu: int | None
    stack: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceBatch:
    """Events as they travel; an empty one says that the daemon is there.

    Attributes:
        lost: Events that this reader was too slow for, since the last batch.
        witness_lost: Events that did not fit into the kernel's ring, since the last batch; balances are not affected.
        stacks_lost: Stacks that did not fit into theirs, since the last batch; their events are told.
    """

    events: tuple[TraceEvent, ...]
    lost: int = 0
    witness_lost: int = 0
    stacks_lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFilter:
    """Which events are wanted.

    Attributes:
        container_id: Those of one container; None: all, the host's too.
        min_bytes: Those of at least this size.
        kind: One of `KINDS`; None: all.
        stacks: With where they were called from.
    """

    container_id: str | None = None
    min_bytes: int = 0
    kind: str | None = None
    stacks: bool = False

    def wants(self, kind: str, size_bytes: int, container_id: str | None) -> bool:
        """Tell whether an event is one of those."""
        return (
            kind in KINDS
            and size_bytes >= self.min_bytes
            and self.kind in (None, kind)
            and self.container_id in (None, container_id)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceArguments:
    """Arguments of `trace`, which is answered again and again until the connection ends.

    Attributes:
        container: By name, id or a prefix of the id; None: all, the host's processes too.
        min_bytes: Events of at least this size.
        kind: `alloc`, `free` or `fail`; None: all of them.
        stacks: With where they were called from.
    """

    container: str | None = None
    min_bytes: int = 0
    kind: str | None = None
    stacks: bool = False
