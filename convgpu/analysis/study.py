# SPDX-License-Identifier: Apache-2.0
"""The figures of a log: who held how much of its limit for how long, who waited, who was denied, how fair it was.

Made of the rows of the tables (`analysis.tables`), so whoever has an export can make the same figures. Formulas:

* near the limit: the time in which a container holds at least 90 % of its limit, as a part of its stay; per device
* waited: the time in which at least one request of a container is suspended, or its start waits
* progress `x`: (stay - waited) / stay, of a container that has ended; it would be 1 had it been alone
* fairness: Jain's index over `x`
* denial rate: denied / (granted + denied + resumed); a request that waits is counted when it is decided
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from convgpu.analysis.tables import TABLES
from convgpu.analysis.tidy import Row
from convgpu.core.fairness import jain_index

NEAR_LIMIT_PERCENT: Final = 90
"""From this part of its limit on a container is near it."""
_KEPT: Final = ("runs", "capacities", "findings", "losses", "notes", "suspensions", "starts")
_PLACES: Final = {
    name: {column.name: place for place, column in enumerate(table.columns)} for name, table in TABLES.items()
}

Interval = tuple[int, int]


@dataclass(slots=True)
class Line:
    """Something over time, a step at each entry: times in nanoseconds since 1970, values in bytes."""

    at_ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[int] = field(default_factory=lambda: array("q"))

    def add(self, at_ns: int, value: int) -> None:
        """From then on it has this value."""
        self.at_ns.append(at_ns)
        self.values.append(value)


@dataclass(slots=True)
class OnDevice:
    """One container on one device. `limit`: what held when; `held`: the ledger; `used`: snapshots of its pages."""

    gpu: int | None
    limit: Line = field(default_factory=Line)
    held: Line = field(default_factory=Line)
    used: Line = field(default_factory=Line)


@dataclass(slots=True)
class Contained:
    """One container over the whole log.

    Attributes:
        stays: From when to when it ran; the last one to the end of the log, if it runs then.
        ended: Whether all of them are over.
        devices: By UUID.
        decisions: How many of each kind.
        reasons: Why requests were denied.
        waits: Each wait of a request or of a start, clipped to the log.
    """

    container_id: str
    name: str | None = None
    stays: list[Interval] = field(default_factory=list)
    ended: bool = True
    devices: dict[str, OnDevice] = field(default_factory=dict)
    decisions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    waits: list[Interval] = field(default_factory=list)

    @property
    def stay_ns(self) -> int:
        """How long it was there."""
        return sum(end - begin for begin, end in self.stays)

    @property
    def waited_ns(self) -> int:
        """In how much of that time something of it waited."""
        return sum(end - begin for begin, end in united(self.waits))

    @property
    def progress(self) -> float | None:
        """Normalised progress; None: it still runs, or was there for no time."""
        return (self.stay_ns - self.waited_ns) / self.stay_ns if self.ended and self.stay_ns else None

    @property
    def denial_rate(self) -> float | None:
        """Denied requests as a part of those that were decided; None: there were none."""
        decided = sum(self.decisions[kind] for kind in ("granted", "denied", "resumed"))
        return self.decisions["denied"] / decided if decided else None

    def near_limit(self, device: OnDevice) -> float | None:
        """In which part of its stay it held at least 90 % of its limit on a device; None: it was there for no time."""
        if not self.stay_ns:
            return None
        near_ns = 0
        for held, limit, begin, end in _both(device.held, device.limit, self.stays):
            if held * 100 >= limit * NEAR_LIMIT_PERCENT:
                near_ns += end - begin
        return near_ns / self.stay_ns

    def mean_held_bytes(self, device: OnDevice) -> int | None:
        """What it held on a device on average over its stay."""
        if not self.stay_ns:
            return None
        area = sum(held * (end - begin) for held, _, begin, end in _both(device.held, device.limit, self.stays))
        return area // self.stay_ns


class Study:
    """Takes rows of the tables and has the figures at the end.

    Attributes:
        containers: By id, in the order in which they were first seen.
        rows: Whole tables of what there is little of, as mappings: runs, capacities, findings, losses, notes, ...
        decided_ns: When, for each kind of decision.
        begin_ns, end_ns: Of the log.
        records: How many.
    """

    def __init__(self) -> None:
        self.containers: dict[str, Contained] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _KEPT}
        self.decided_ns: dict[str, array[int]] = {}
        self.begin_ns = 0
        self.end_ns = 0
        self.records = 0
        self._stays: list[tuple[Row, int | None]] = []

    def take(self, table: str, row: Row) -> None:
        """Take a row."""
        places = _PLACES[table]
        if table == "events":
            self.end_ns = max(self.end_ns, _integer(row[places["time_ns"]]))
            self.begin_ns = self.begin_ns or self.end_ns
            self.records += 1
        elif table == "decisions":
            self._decided(row, places)
        elif table == "holdings":
            held = self._device(row, places).held
            held.add(_integer(row[places["time_ns"]]), _integer(row[places["held_bytes"]]))
        elif table == "limits":
            limit = self._device(row, places).limit
            limit.add(_integer(row[places["time_ns"]]), _integer(row[places["limit_bytes"]]))
        elif table == "usage":
            used = row[places["used_bytes"]]
            if used is not None:
                self._device(row, places).used.add(_integer(row[places["time_ns"]]), _integer(used))
        elif table == "containers":
            self._stays.append((row, row[places["gone_ns"]]))  # type: ignore[arg-type]  # a column of integers
        elif table in self.rows:
            self.rows[table].append(dict(zip(places, row, strict=True)))

    def finish(self) -> None:
        """All rows are taken: what was not over lasts to the end of the log."""
        places = _PLACES["containers"]
        for row, gone_ns in self._stays:
            contained = self._container(row, places)
            contained.name = contained.name or row[places["name"]]  # type: ignore[assignment]  # a column of texts
            begin_ns = _integer(row[places["seen_ns"]])
            contained.stays.append((begin_ns, self.end_ns if gone_ns is None else gone_ns))
            contained.ended = contained.ended and gone_ns is not None
        for table in ("suspensions", "starts"):
            for wait in self.rows[table]:
                ended_ns = self.end_ns if wait["ended_ns"] is None else wait["ended_ns"]
                contained = self._contained(wait["container_id"])
                contained.waits.append((wait["began_ns"], ended_ns))
                if table == "starts":  # its stay begins with the wait for it
                    contained.stays.append((wait["began_ns"], ended_ns))
        for contained in self.containers.values():
            contained.stays = united(contained.stays)

    @property
    def jain(self) -> float | None:
        """Jain's index over the progress of the containers that have ended; None: there are none."""
        return jain_index([each.progress for each in self.containers.values() if each.progress is not None])

    @property
    def decisions(self) -> dict[str, int]:
        """How many decisions of each kind."""
        return {kind: len(times) for kind, times in self.decided_ns.items()}

    @property
    def denial_rate(self) -> float | None:
        """Of all containers together."""
        decided = sum(self.decisions.get(kind, 0) for kind in ("granted", "denied", "resumed"))
        return self.decisions.get("denied", 0) / decided if decided else None

    @property
    def simulated(self) -> bool:
        """Whether a run of the daemon had simulated devices."""
        return any(run["simulated"] for run in self.rows["runs"])

    def _decided(self, row: Row, places: Mapping[str, int]) -> None:
        kind = str(row[places["decision"]])
        self.decided_ns.setdefault(kind, array("q")).append(_integer(row[places["time_ns"]]))
        contained = self._container(row, places)
        contained.decisions[kind] += 1
        if kind == "denied":
            contained.reasons[str(row[places["reason"]])] += 1

    def _container(self, row: Row, places: Mapping[str, int]) -> Contained:
        return self._contained(str(row[places["container_id"]]))

    def _contained(self, container_id: str) -> Contained:
        return self.containers.setdefault(container_id, Contained(container_id))

    def _device(self, row: Row, places: Mapping[str, int]) -> OnDevice:
        devices = self._container(row, places).devices
        gpu: Any = row[places["gpu"]]
        return devices.setdefault(str(row[places["gpu_id"]]), OnDevice(gpu))


def study(rows: Iterable[tuple[str, Row]]) -> Study:
    """Return the figures of rows, as `analysis.export.rows_of` makes them."""
    made = Study()
    for table, row in rows:
        made.take(table, row)
    made.finish()
    return made


def united(intervals: Iterable[Interval]) -> list[Interval]:
    """Return intervals that do not overlap and cover the same times."""
    joined: list[Interval] = []
    for begin, end in sorted(intervals):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined


def _both(held: Line, limit: Line, stays: Iterable[Interval]) -> Iterable[tuple[int, int, int, int]]:
    """Return what was held and what the limit was, with begin and end of each time in which neither changes."""
    for begin, end in stays:
        changes = sorted({begin, end, *(at for line in (held, limit) for at in line.at_ns if begin < at < end)})
        values = [_Reader(held), _Reader(limit)]
        for start, stop in pairwise(changes):
            yield values[0].at(start), values[1].at(start), start, stop


class _Reader:
    """Reads a line at times that only grow."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._next = 0
        self._value = 0

    def at(self, time_ns: int) -> int:
        while self._next < len(self._line.at_ns) and self._line.at_ns[self._next] <= time_ns:
            self._value = self._line.values[self._next]
            self._next += 1
        return self._value


def _integer(value: Any) -> int:
    return 0 if value is None else int(value)
