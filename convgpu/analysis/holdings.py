# SPDX-License-Identifier: Apache-2.0
"""What containers hold, followed record by record, as the daemon's ledger has it.

A grant adds, credit that is taken back subtracts, and what a process held is gone with it. A restarted daemon's first
records say what it found; what it did not find is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_Process = tuple[int, int]
Place = tuple[str, str]
"""A container's id and a device's UUID."""

_FOUND_AGAIN: Final = frozenset(
    (
        "daemon.start",
        "container.seen",
        "process.seen",
        "reconcile",
        "capacity.changed",
        "loss",
        "log.repaired",
        "log.rotated",
        "seal",
        "finding.raised",
        "snapshot",
    )
)
"""Records that may stand between the start of a daemon and the last process that it finds."""


class Holdings:
    """Follows one log."""

    def __init__(self) -> None:
        self._held: dict[_Process, dict[str, int]] = {}
        self._container: dict[_Process, str] = {}
        self._sums: dict[Place, int] = {}
        self._not_found: set[_Process] = set()

    def at(self, place: Place) -> int:
        """Return what a container holds on a device now."""
        return self._sums.get(place, 0)

    def take(self, record: Mapping[str, Any]) -> set[Place]:
        """Follow one record; return where something changed."""
        kind = record["type"]
        changed: set[Place] = set()
        if self._not_found and kind not in _FOUND_AGAIN:
            for key in self._not_found:
                changed |= self._end(key)
            self._not_found.clear()
        if kind == "daemon.start":
            self._not_found = set(self._held)
        elif kind in ("decision.granted", "decision.resumed"):
            changed |= self._add(record, record["size_bytes"])
        elif kind == "credit.reclaimed":
            changed |= self._add(record, -record["size_bytes"])
        elif kind == "process.seen":
            changed |= self._found(record)
        elif kind == "process.gone":
            changed |= self._end(_process(record))
        elif kind == "container.gone":
            container = record["container"]["id"]
            for key in [key for key, owner in self._container.items() if owner == container]:
                changed |= self._end(key)
        return changed

    def _add(self, record: Mapping[str, Any], size_bytes: int) -> set[Place]:
        key, gpu = _process(record), record.get("gpu")
        if gpu is None:
            return set()
        self._container[key] = record["container"]["id"]
        held = self._held.setdefault(key, {})
        held[gpu["id"]] = held.get(gpu["id"], 0) + size_bytes
        place = self._container[key], gpu["id"]
        self._sums[place] = self._sums.get(place, 0) + size_bytes
        return {place}

    def _found(self, record: Mapping[str, Any]) -> set[Place]:
        """A restarted daemon finds what a process was granted; others join with nothing."""
        key = _process(record)
        if "container" in record:
            self._container[key] = record["container"]["id"]
        if "gpu" not in record:
            return set()
        self._not_found.discard(key)
        before = self._held.get(key, {}).get(record["gpu"]["id"], 0)
        return self._add(record, record["used_bytes"] - before)

    def _end(self, key: _Process) -> set[Place]:
        container = self._container.pop(key, None)
        changed: Iterable[tuple[str, int]] = self._held.pop(key, {}).items()
        places = set()
        for gpu, size_bytes in changed:
            place = str(container), gpu
            self._sums[place] -= size_bytes
            places.add(place)
        return places


def _process(record: Mapping[str, Any]) -> _Process:
    return record["process"]["pid"], record["process"]["start_ticks"]
