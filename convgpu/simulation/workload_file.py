# SPDX-License-Identifier: Apache-2.0
"""Workloads that a person wrote: TOML, or CSV with the same keys as columns. docs/simulation.md describes both."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from convgpu.core.durations import parse_duration
from convgpu.core.groups import parse_group
from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.quota import Quota
from convgpu.core.units import parse_size
from convgpu.errors import UsageError
from convgpu.simulation.phases import Phases, parse_phases
from convgpu.simulation.workload import Container, Device, Process, Step, Workload

KEYS: Final = (
    "name",
    "arrival",
    "limit",
    "guarantee",
    "gpus",
    "duration",
    "phases",
    "priority",
    "wait",
    "count",
    "every",
    "group",
)
"""What may be said of a container; `limit`, and one of `duration` and `phases`, must be."""

_GPU_KEYS: Final = ("name", "memory")
_GROUP_KEYS: Final = ("name", "limit", "gpus")


def load_workload(
    path: Path, devices: Sequence[Device] = (), groups: Mapping[GroupName, int] | None = None
) -> Workload:
    """Read a workload from a file that ends in `.toml` or `.csv`.

    Args:
        path: The file.
        devices: Take the place of those in the file; CSV names none.
        groups: Limits of groups on all devices, in bytes; they win over those of the same groups in the file.

    Raises:
        UsageError: It cannot be read, or is not a workload; the message says where.
    """
    readers = {".toml": _read_toml, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is no workload: its name must end in .toml or .csv")
    try:
        title, own_devices, own_groups, rows = reader(path)
    except OSError as error:
        raise UsageError(f"cannot read the workload {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not in the form of its name: {error}") from error
    chosen = tuple(devices) or own_devices
    if not chosen:
        raise UsageError(f"{path} names no GPU: give --gpu SIZE" + (" or [[gpu]]" if reader is _read_toml else ""))
    all_gpus = [device.gpu for device in chosen]
    limits: dict[GroupName, dict[GpuUuid, int]] = {}
    for group, own_limits in _group_limits(path, own_groups, all_gpus):  # once for each device, if they differ
        limits[group] = limits.get(group, {}) | own_limits
    limits |= {group: dict.fromkeys(all_gpus, limit_bytes) for group, limit_bytes in (groups or {}).items()}
    containers: dict[ContainerId, Container] = {}
    for place, row in rows:
        try:
            _add(containers, _containers(row, place, all_gpus))
        except UsageError as error:
            raise UsageError(f"{path}, {place}: {error.message}") from error
    if not containers:
        raise UsageError(f"{path} has no containers")
    return Workload(title, chosen, tuple(containers.values()), group_limits=limits)


def _group_limits(
    path: Path, tables: Iterable[Mapping[str, Any]], all_gpus: Sequence[GpuUuid]
) -> Iterator[tuple[GroupName, dict[GpuUuid, int]]]:
    for number, table in enumerate(tables, start=1):
        try:
            _require_known(table, _GROUP_KEYS)
            group = parse_group(str(_needed(table, "name")))
            limit_bytes = parse_size(str(_needed(table, "limit")))
            yield group, dict.fromkeys(_gpus(table, all_gpus), limit_bytes)
        except UsageError as error:
            raise UsageError(f"{path}, group {number}: {error.message}") from error


def _add(containers: dict[ContainerId, Container], more: Iterable[Container]) -> None:
    for container in more:
        if containers.setdefault(container.container_id, container) is not container:
            raise UsageError(f"another container has the name '{container.name}'")


_Rows = list[tuple[str, Mapping[str, Any]]]
_Tables = Sequence[Mapping[str, Any]]


def _read_toml(path: Path) -> tuple[str, tuple[Device, ...], _Tables, _Rows]:
    with path.open("rb") as file:
        document = tomllib.load(file)
    for key in document:
        if key not in ("title", "gpu", "group", "container"):
            raise UsageError(f"{path}: '{key}' has no meaning here; known: title, [[gpu]], [[group]], [[container]]")
    for key in ("gpu", "group", "container"):
        tables = document.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UsageError(f"{path}: {key} is a list of tables: write [[{key}]]")
    try:
        devices = tuple(_device(table, number) for number, table in enumerate(document.get("gpu", [])))
    except UsageError as error:
        raise UsageError(f"{path}, [[gpu]]: {error.message}") from error
    rows = [(f"container {number}", table) for number, table in enumerate(document.get("container", []), start=1)]
    return str(document.get("title", path.name)), devices, document.get("group", []), rows


def _read_csv(path: Path) -> tuple[str, tuple[Device, ...], _Tables, _Rows]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True, strict=True)
        rows: _Rows = []
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{path}, line {reader.line_num}: not as many values as there are columns")
            rows.append((f"line {reader.line_num}", {key: value for key, value in row.items() if value}))
    return path.name, (), (), rows


def _device(table: Mapping[str, Any], number: int) -> Device:
    _require_known(table, _GPU_KEYS)
    name = str(table.get("name", number))
    return Device(GpuUuid(name), name, parse_size(str(_needed(table, "memory"))))


def _containers(row: Mapping[str, Any], place: str, all_gpus: Sequence[GpuUuid]) -> Iterator[Container]:
    """Make the containers of one row: `count` of them, one `every` so often."""
    _require_known(row, KEYS)
    name = str(row.get("name", place.replace(" ", "-")))
    gpus = _gpus(row, all_gpus)
    limit_bytes = parse_size(str(_needed(row, "limit")))
    guarantee_bytes = _zero_or_size(row["guarantee"]) if "guarantee" in row else limit_bytes
    arrival_ns = _time(row, "arrival")
    every_ns = _time(row, "every")
    wait_ns = parse_duration(str(row.get("wait", "none")))
    priority = _whole(row, "priority", 0)
    group = parse_group(str(row["group"])) if "group" in row else None
    steps = _steps(row, gpus, limit_bytes)
    count = _whole(row, "count", 1)
    if count < 1:
        raise UsageError(f"count is at least 1, not {count}")
    for number in range(count):
        own_name = name if count == 1 else f"{name}-{number + 1:0{len(str(count))}}"
        yield Container(
            container_id=ContainerId(own_name),
            name=own_name,
            arrival_ns=arrival_ns + number * every_ns,
            created_ns=arrival_ns + number * every_ns,
            quotas={gpu: Quota(limit_bytes, guarantee_bytes) for gpu in gpus},
            processes=(Process(steps),),
            priority=priority,
            wait_ns=wait_ns,
            group=group,
        )


def _steps(row: Mapping[str, Any], gpus: Sequence[GpuUuid], limit_bytes: int) -> tuple[Step, ...]:
    if ("duration" in row) == ("phases" in row):
        raise UsageError("say either `duration` (all of the limit for so long) or `phases`")
    if "phases" in row:
        return parse_phases(str(row["phases"]), gpus)
    phases = Phases()
    for gpu in gpus:
        phases.allocate(gpu, limit_bytes)
    phases.run(_time(row, "duration"))
    return phases.end()


def _gpus(row: Mapping[str, Any], all_gpus: Sequence[GpuUuid]) -> list[GpuUuid]:
    """As with `docker run`: without a word about it, all of them."""
    value = row.get("gpus", list(all_gpus))
    names = value if isinstance(value, list) else str(value).split()
    chosen = [GpuUuid(str(name)) for name in names]
    for gpu in chosen:
        if gpu not in all_gpus:
            raise UsageError(f"there is no GPU '{gpu}'; there are: {', '.join(all_gpus)}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError("gpus is a list of one or more different GPUs")
    return chosen


def _require_known(table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"'{key}' has no meaning here; known: {', '.join(known)}")


def _needed(table: Mapping[str, Any], key: str) -> Any:
    if key not in table:
        raise UsageError(f"'{key}' is missing")
    return table[key]


def _zero_or_size(value: Any) -> int:
    return 0 if str(value).strip() == "0" else parse_size(str(value))


def _time(row: Mapping[str, Any], key: str) -> int:
    time_ns = parse_duration(str(row.get(key, "0s")))
    if time_ns is None:
        raise UsageError(f"{key} is a time, such as 30s")
    return time_ns


def _whole(row: Mapping[str, Any], key: str, default: int) -> int:
    text = str(row.get(key, default))
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{key} is a whole number, not '{text}'") from error
