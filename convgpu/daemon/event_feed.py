# SPDX-License-Identifier: Apache-2.0
"""What was written into the log, handed to those who look on: the last of it, and then each record as it comes.

Decisions are taken many thousand times a second, so noting one is to append it; what people read is made of it when
somebody does. A reader that is too slow loses events, counted, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from convgpu.audit.builder import Event
from convgpu.audit.clock import format_timestamp
from convgpu.core.events import GRANT, EventBatch, EventFilter, LogEvent, shortened

NOT_TOLD: Final = frozenset({"witness.alloc", "witness.free", "witness.summary", "snapshot", "credit.reclaimed"})
"""Figures and not news: `convgpu trace` tells the first three as they happen, a snapshot has the rest."""
KEPT_GRANTS: Final = 256
KEPT_OTHERS: Final = 1024
WAITING_EVENTS: Final = 4096
"""What may wait for one reader."""
_BATCH_EVENTS: Final = 256
_HEARTBEAT_S: Final = 1.0


class _Told(NamedTuple):
    """A record in the order of the log. `number` counts what was noted; `seq` is None where the log took nothing."""

    number: int
    seq: int | None
    event: Event


class _Reader:
    """One who looks on."""

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.waiting: deque[_Told] = deque()
        self.lost = 0
        self.arrived = asyncio.Event()
        self.arrived.set()  # the first batch says at once that it has begun

    def offer(self, told: _Told) -> None:
        if not self.wanted.wants(told.event.type_name, _container(told.event.fields).get("id")):
            return
        if len(self.waiting) >= WAITING_EVENTS:
            self.lost += 1
        else:
            self.waiting.append(told)
        self.arrived.set()


class EventFeed:
    """Keeps the last records of a log and hands out new ones. The loop's own: it is not to be used by other threads."""

    def __init__(self) -> None:
        self._grants: deque[_Told] = deque(maxlen=KEPT_GRANTS)
        self._others: deque[_Told] = deque(maxlen=KEPT_OTHERS)
        self._readers: set[_Reader] = set()
        self._number = 0

    def note(self, events: Sequence[Event], last_seq: int | None) -> None:
        """Take in what was written.

        Args:
            events: In the order of the log.
            last_seq: The serial number of the last of them; None: they could not be written.
        """
        for place, event in enumerate(events):
            if event.type_name in NOT_TOLD:
                continue
            self._number += 1
            told = _Told(self._number, None if last_seq is None else last_seq - len(events) + 1 + place, event)
            (self._grants if event.type_name == GRANT else self._others).append(told)
            for reader in self._readers:
                reader.offer(told)

    async def stream(self, wanted: EventFilter, last: int, *, follow: bool) -> AsyncGenerator[EventBatch, None]:
        """Tell the last events that are wanted, and then, to one who follows, each as it comes.

        A follower gets a batch at least every second, an empty one where nothing happens.
        """
        reader = _Reader(wanted)
        for told in self._last(wanted, last):
            reader.waiting.append(told)
        if follow:
            self._readers.add(reader)
        try:
            while follow or reader.waiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.arrived.wait(), _HEARTBEAT_S)
                reader.arrived.clear()
                lost, reader.lost = reader.lost, 0
                count = min(len(reader.waiting), _BATCH_EVENTS)
                events = tuple(_shortened(reader.waiting.popleft()) for _ in range(count))
                if reader.waiting:
                    reader.arrived.set()
                yield EventBatch(events=events, lost=lost)
        finally:
            self._readers.discard(reader)

    def container_called(self, text: str) -> str | None:
        """Return the one container of that name, id or prefix of the id which something was told about; else None."""
        named = [_container(told.event.fields) for told in (*self._grants, *self._others)]
        names = {each["id"] for each in named if each and each["name"] == text}
        ids = {each["id"] for each in named if each and text and each["id"].startswith(text)}
        found = names or ids
        return found.pop() if len(found) == 1 else None

    def last(self, wanted: EventFilter, count: int) -> tuple[LogEvent, ...]:
        """Return the last events that are wanted, oldest first."""
        return tuple(map(_shortened, self._last(wanted, count)))

    def _last(self, wanted: EventFilter, count: int) -> list[_Told]:
        found = [
            told
            for told in heapq.merge(self._grants, self._others)
            if wanted.wants(told.event.type_name, _container(told.event.fields).get("id"))
        ]
        return found[-count:] if count > 0 else []


def _container(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return fields.get("container") or {}


def _shortened(told: _Told) -> LogEvent:
    event = told.event
    return shortened(
        event.fields,
        seq=told.seq,
        ts=format_timestamp(event.wall_ns),
        mono_ns=event.mono_ns,
        type_name=event.type_name,
        sentence=event.msg,
    )
