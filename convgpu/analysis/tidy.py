# SPDX-License-Identifier: Apache-2.0
"""Turns records into rows of the tables, one record after another.

What lasts (a stay of a container, a process, a wait, a finding) has its row when it is over, or at the end of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from convgpu.analysis.columns import Value
from convgpu.analysis.holdings import Holdings, Place
from convgpu.analysis.tables import TABLES
from convgpu.audit.clock import parse_timestamp

Row = tuple[Value, ...]
_Record = Mapping[str, Any]
_NAMES: Final = {name: tuple(column.name for column in table.columns) for name, table in TABLES.items()}
_DECISIONS: Final = tuple(f"decision.{kind}" for kind in ("granted", "denied", "suspended", "resumed", "withdrawn"))
_WITNESSED: Final = tuple(f"witness.{kind}" for kind in ("alloc", "free", "summary"))


@dataclass(slots=True)
class _Open:
    """What has begun and not ended, by what names it."""

    rows: dict[Any, dict[str, Value]] = field(default_factory=dict)

    def begin(self, key: Any, row: dict[str, Value]) -> None:
        self.rows.setdefault(key, row)

    def end(self, key: Any, **more: Value) -> dict[str, Value] | None:
        row = self.rows.pop(key, None)
        return None if row is None else row | more


class Tidy:
    """Makes the rows of one log."""

    def __init__(self) -> None:
        self._holdings = Holdings()
        self._limits: dict[Place, int | None] = {}
        self._gpus: dict[str, int | None] = {}
        self._stays: dict[str, int] = {}
        self._open = {
            name: _Open() for name in ("runs", "containers", "processes", "suspensions", "starts", "findings")
        }
        self._made: list[tuple[str, Row]] = []

    def take(self, record: _Record) -> Iterator[tuple[str, Row]]:
        """Return the rows that this record completes, each with the name of its table."""
        time_ns = parse_timestamp(record["ts"])
        values = _flat(record, time_ns)
        if values["gpu_id"] is not None:
            self._gpus[str(values["gpu_id"])] = record["gpu"].get("index")
        self._put("events", values | {"sentence": record["msg"], "boot_id": record["boot_id"]})
        maker = self._MAKERS.get(record["type"])
        if maker is not None:
            maker(self, record, values)
        for container, gpu in self._holdings.take(record):
            place = container, gpu
            row = {"seq": record["seq"], "time_ns": time_ns, "container_id": container, "gpu_id": gpu}
            held = {"gpu": self._gpus.get(gpu), "held_bytes": self._holdings.at(place)}
            self._put("holdings", row | held | {"limit_bytes": self._limits.get(place)})
        yield from self._taken()

    def finish(self) -> Iterator[tuple[str, Row]]:
        """Return the rows of what is not over at the end of the log."""
        for name, still_open in self._open.items():
            for row in still_open.rows.values():
                self._put(name, row)
            still_open.rows.clear()
        yield from self._taken()

    def _taken(self) -> Iterator[tuple[str, Row]]:
        made, self._made = self._made, []
        yield from made

    def _put(self, table: str, values: Mapping[str, Any]) -> None:
        self._made.append((table, tuple([values.get(name) for name in _NAMES[table]])))

    def _end(self, table: str, key: Any, **more: Value) -> None:
        row = self._open[table].end(key, **more)
        if row is not None:
            self._put(table, row)

    # One method a type of record.

    def _run_started(self, record: _Record, values: dict[str, Any]) -> None:
        time_ns = values["time_ns"]
        self._end("runs", "run")
        self._open["runs"].begin("run", values | dict(record) | {"started_ns": time_ns})
        for gpu in record.get("gpus", ()):
            self._gpus[gpu["id"]] = gpu.get("index")
            self._put("capacities", values | gpu | _gpu(gpu) | {"reason": "daemon.start"})
        for key in list(self._open["suspensions"].rows):
            self._end("suspensions", key, ended_ns=time_ns, ended_by="daemon.start")

    def _run_stopped(self, _: _Record, values: dict[str, Any]) -> None:
        self._end("runs", "run", stopped_ns=values["time_ns"])

    def _capacity_changed(self, record: _Record, values: dict[str, Any]) -> None:
        self._put("capacities", values | _known(record, "capacity_bytes", "external_bytes"))

    def _container_seen(self, record: _Record, values: dict[str, Any]) -> None:
        container = values["container_id"]
        if container not in self._open["containers"].rows:
            self._stays[container] = self._stays.get(container, 0) + 1
            names = {each: record["container"].get(each) for each in ("name", "image")}
            about = {
                "stay": self._stays[container],
                "seen_ns": values["time_ns"],
                "wait_limit_ns": record.get("wait_ns"),
            }
            known = _known(record, "created_ns", "priority") | {"group_name": record.get("group")}
            self._open["containers"].begin(container, {"container_id": container, **names, **about, **known})
        if values["gpu_id"] is not None:
            self._limit(record, values | {"change": "seen"})

    def _container_gone(self, record: _Record, values: dict[str, Any]) -> None:
        self._end("containers", values["container_id"], gone_ns=values["time_ns"], exit_code=record.get("exit_code"))

    def _limit_changed(self, record: _Record, values: dict[str, Any]) -> None:
        self._limit(record, values | {"change": record["type"].partition(".")[2]})

    def _limit(self, record: _Record, values: dict[str, Any]) -> None:
        self._limits[values["container_id"], str(values["gpu_id"])] = record.get("limit_bytes")
        known = _known(record, "limit_bytes", "guarantee_bytes", "old_limit_bytes", "source")
        self._put("limits", values | known | {"by_uid": _user(record.get("by_uid"))})

    def _group_limits(self, record: _Record, values: dict[str, Any]) -> None:
        by_uid = _user(record.get("by_uid"))
        for each in record["limits"]:
            about = {"group_name": each["group"], "gpu_id": each["gpu"], "gpu": each["index"], "by_uid": by_uid}
            self._put("group_limits", values | _known(each, "limit_bytes", "old_limit_bytes") | about)

    def _process_seen(self, _: _Record, values: dict[str, Any]) -> None:
        self._open["processes"].begin(_key(values), {**values, "seen_ns": values["time_ns"]})

    def _process_gone(self, record: _Record, values: dict[str, Any]) -> None:
        self._end("processes", _key(values), gone_ns=values["time_ns"], returned_bytes=record.get("used_bytes"))

    def _decided(self, record: _Record, values: dict[str, Any]) -> None:
        decision = record["type"].partition(".")[2]
        self._put("decisions", {**record, **values, "decision": decision})
        request = record.get("request")
        if decision == "suspended":
            arrived_ns = record.get("arrived_ns")
            began = {
                "began_ns": values["time_ns"],
                **_known(record, "request", "position"),
                "group_name": record.get("group"),
            }
            if arrived_ns is not None:
                began["arrived_ns"] = values["time_ns"] - record["mono_ns"] + arrived_ns
            self._open["suspensions"].begin(request, {**values, "reason": None, **began})
        elif decision != "granted":
            self._end(
                "suspensions", request, ended_ns=values["time_ns"], ended_by=decision, reason=record.get("reason")
            )

    def _start_waits(self, _: _Record, values: dict[str, Any]) -> None:
        self._open["starts"].begin(
            values["container_id"], {"container_id": values["container_id"], "began_ns": values["time_ns"]}
        )

    def _start_decided(self, record: _Record, values: dict[str, Any]) -> None:
        ended: dict[str, Value] = {"ended_ns": values["time_ns"], "decision": record["type"].partition(".")[2]}
        ended |= _known(record, "waited_ns", "reason")
        began = values["time_ns"] - record["waited_ns"]
        self._open["starts"].begin(values["container_id"], {"container_id": values["container_id"], "began_ns": began})
        self._end("starts", values["container_id"], **ended)

    def _snapshot(self, record: _Record, values: dict[str, Any]) -> None:
        self._put("usage", {**record, **values})

    def _witnessed(self, record: _Record, values: dict[str, Any]) -> None:
        self._put("witness", {"count": 1, "outcome": "alloc", **record, **values})

    def _finding_raised(self, record: _Record, values: dict[str, Any]) -> None:
        figures = _known(record, "finding", "used_bytes", "witness_bytes", "nvml_bytes", "action")
        self._open["findings"].begin(_finding(values, record), {**values, **figures, "raised_ns": values["time_ns"]})

    def _finding_cleared(self, record: _Record, values: dict[str, Any]) -> None:
        self._end("findings", _finding(values, record), cleared_ns=values["time_ns"])

    def _lost(self, record: _Record, values: dict[str, Any]) -> None:
        self._put("losses", values | _known(record, "count", "period_ns"))

    def _noted(self, record: _Record, values: dict[str, Any]) -> None:
        self._put("notes", values | {"text": record["text"], "by_uid": _user(record.get("by_uid"))})

    _MAKERS: ClassVar[Mapping[str, Callable[[Tidy, _Record, dict[str, Any]], None]]] = {
        "daemon.start": _run_started,
        "daemon.stop": _run_stopped,
        "capacity.changed": _capacity_changed,
        "container.seen": _container_seen,
        "container.gone": _container_gone,
        "limit.set": _limit_changed,
        "limit.removed": _limit_changed,
        "group.limits": _group_limits,
        "process.seen": _process_seen,
        "process.gone": _process_gone,
        **dict.fromkeys(_DECISIONS, _decided),
        "start.suspended": _start_waits,
        "start.admitted": _start_decided,
        "start.denied": _start_decided,
        "snapshot": _snapshot,
        **dict.fromkeys(_WITNESSED, _witnessed),
        "finding.raised": _finding_raised,
        "finding.cleared": _finding_cleared,
        "loss": _lost,
        "note": _noted,
    }


def _flat(record: _Record, time_ns: int) -> dict[str, Any]:
    """Return the fields that say when, who and where, laid flat."""
    container, process = record.get("container") or {}, record.get("process") or {}
    return {
        "seq": record["seq"],
        "time_ns": time_ns,
        "mono_ns": record["mono_ns"],
        "type": record["type"],
        "container_id": container.get("id"),
        "pid": process.get("pid"),
        "start_ticks": process.get("start_ticks"),
        "comm": process.get("comm"),
        "uid": _user(process.get("uid")),
        **_gpu(record.get("gpu") or {}),
        **_known(record, "size_bytes", "outcome", "reason"),
    }


def _gpu(gpu: _Record) -> dict[str, Any]:
    return {"gpu_id": gpu.get("id"), "gpu": gpu.get("index")}


def _known(record: _Record, *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


def _user(user_id: int | None) -> str | None:
    return None if user_id is None else str(user_id)


def _key(values: Mapping[str, Any]) -> tuple[Any, Any]:
    return values["pid"], values["start_ticks"]


def _finding(values: Mapping[str, Any], record: _Record) -> tuple[Any, ...]:
    return record["finding"], values["container_id"], values["gpu_id"]
