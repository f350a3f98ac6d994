# SPDX-License-Identifier: Apache-2.0
"""What happened, for those who look on: a record of the log with the fields that people ask for. Names are JSON's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

TOPICS: Final = (
    "decision",
    "start",
    "limit",
    "group",
    "container",
    "process",
    "finding",
    "capacity",
    "config",
    "daemon",
    "other",
)
"""What an event can be about: the first word of its type, or `other` for what has no topic of its own."""

GRANT: Final = "decision.granted"
"""The one type of which there may be thousands between two of anything else."""


def topic_of(type_name: str) -> str:
    """Return the topic of a record type: `decision` of `decision.denied`, `other` of `reconcile`."""
    first = type_name.partition(".")[0]
    return first if first in TOPICS else TOPICS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One record of the log, shortened.

    Attributes:
        seq: Its serial number in the log; None: the log could not take it (a full disk).
        ts: When, RFC 3339, UTC, nanoseconds.
        mono_ns: The same by CLOCK_MONOTONIC.
        type: One of the log's record types, such as `decision.denied`.
        sentence: What happened, for a person.
        container_id: None: it concerns no container.
        gpu: Index of the device; None: it concerns none, or all.
        pid: The process that asked.
        api: The call that asked.
        size_bytes: What was asked for.
        reason: Why.
        waited_ns: From the request's arrival to this decision.
    """

    seq: int | None
    ts: str
    mono_ns: int
    type: str
    sentence: str
    container_id: str | None = None
    container_name: str | None = None
    gpu: int | None = None
    pid: int | None = None
    comm: str | None = None
    api: str | None = None
    size_bytes: int | None = None
    reason: str | None = None
    waited_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events as they travel, oldest first; an empty one says that the daemon is there.

    Attributes:
        lost: Events that this reader was too slow for, since the last batch. They are in the log all the same.
    """

    events: tuple[LogEvent, ...]
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events are wanted.

    Attributes:
        container_id: Those of one container; None: all.
        topics: Those about one of these `TOPICS`; none given: all.
        grants: Whether requests that were granted at once are wanted: there may be thousands a second.
    """

    container_id: str | None = None
    topics: Iterable[str] = ()
    grants: bool = True

    def wants(self, type_name: str, container_id: str | None) -> bool:
        """Tell whether an event is one of those."""
        return (
            self.container_id in (None, container_id)
            and (self.grants or type_name != GRANT)
            and (not self.topics or topic_of(type_name) in self.topics)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsArguments:
    """Arguments of `events`.

    Attributes:
        container: By name, id or a prefix of the id; None: all.
        last: How many of those that happened before are told first.
        follow: Whether what happens from now on is told, until the connection ends.
        topics: Some of `TOPICS`; none given: all.
        grants: Whether requests that were granted at once are told.
    """

    container: str | None = None
    last: int = 10
    follow: bool = True
    topics: tuple[str, ...] = ()
    grants: bool = True


def shortened(
    fields: Mapping[str, Any], *, seq: int | None, ts: str, mono_ns: int, type_name: str, sentence: str
) -> LogEvent:
    """Make an event of a record's fields and of what every record has."""
    container, process, gpu = (fields.get(name) or {} for name in ("container", "process", "gpu"))
    return LogEvent(
        seq=seq,
        ts=ts,
        mono_ns=mono_ns,
        type=type_name,
        sentence=sentence,
        container_id=container.get("id"),
        container_name=container.get("name"),
        gpu=gpu.get("index"),
        pid=process.get("pid"),
        comm=process.get("comm"),
        api=fields.get("api"),
        size_bytes=fields.get("size_bytes"),
        reason=fields.get("reason"),
        waited_ns=fields.get("waited_ns"),
    )
