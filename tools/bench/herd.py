# SPDX-License-Identifier: Apache-2.0
"""Hundreds of processes start CUDA at the same moment in one container."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from typing import Final

from bench import Bench, records
from session import NATIVE, WRAPPED, Session

from convgpu.testing.stage import Stage, StageError, wait_until

_SLOTS: Final = 8
_SIZE_BYTES: Final = 2 << 20
_LIMIT_BYTES: Final = 9 << 30
"""Room for twice the slots' contexts: an ended process is the daemon's to notice, a little after its parent has."""
_ADDED_MOST_S: Final = 2.0
_PATIENCE_S: Final = 280.0


@dataclass(frozen=True)
class Herd:
    """What one run of the herd program reported."""

    wall_ns: int
    succeeded: int
    failed: int
    timed_out: int
    slowest_hello_ns: int
    slowest_start_ns: int
    smallest_total_bytes: int
    largest_total_bytes: int


def measure(bench: Bench) -> None:
    """Native against wrapped: all in time, all known to the daemon, all shown the limit, and what it costs in all."""
    walls: dict[str, list[int]] = {NATIVE: [], WRAPPED: []}
    arguments = (str(bench.processes), str(_SLOTS), str(_SIZE_BYTES))
    pairs = 1 if bench.gpu.real else bench.generations
    lines: list[Herd] = []
    accounted: list[int] = []
    with bench.daemon() as stage:
        for number in range(pairs):
            with bench.rig.native("herd", *arguments, patience_s=_PATIENCE_S) as session:
                herd, errors = _read(session)
            walls[NATIVE].append(herd.wall_ns)
            bench.raw.add("herd", arm=NATIVE, pair=number, errors=errors, **vars(herd))
            with bench.rig.wrapped("herd", str(_LIMIT_BYTES), *arguments, patience_s=_PATIENCE_S) as session:
                herd, errors = _read(session)
                container = session.id()
            walls[WRAPPED].append(herd.wall_ns)
            lines.append(herd)
            accounted.append(_accounted(stage, container, bench.processes))
            bench.raw.add("herd", arm=WRAPPED, pair=number, errors=errors, accounted=accounted[-1], **vars(herd))
            bench.notes += [f"Herd, wrapped: {error}" for error in errors[:3]]
        _report(bench, walls, lines, accounted)


def _read(session: Session) -> tuple[Herd, list[str]]:
    """Members that failed say so on lines of their own before the last one."""
    errors: list[str] = []
    while True:
        word, _, rest = session.read_any().partition(" ")
        if word == "done":
            return Herd(*map(int, rest.split())), errors
        errors.append(rest)


def _accounted(stage: Stage, container: str, processes: int) -> int:
    """Processes whose end the daemon noticed while they held memory: they end without freeing."""

    def count() -> int:
        gone = records(stage, "process.gone", container)
        return sum(int(record["used_bytes"]) >= _SIZE_BYTES for record in gone)

    with contextlib.suppress(StageError):  # what is missing then is what the table says
        wait_until("all ends are in the log", lambda: count() >= processes, 10.0)
    return count()


def _report(bench: Bench, walls: dict[str, list[int]], lines: list[Herd], accounted: list[int]) -> None:
    processes, pairs = bench.processes, len(lines)
    in_all = processes * pairs
    native_s, wrapped_s = (statistics.median(walls[arm]) / 1e9 for arm in (NATIVE, WRAPPED))
    added_s = statistics.median(
        (wrapped - native) / 1e9 for native, wrapped in zip(walls[NATIVE], walls[WRAPPED], strict=True)
    )
    ratio = statistics.median(w / n for n, w in zip(walls[NATIVE], walls[WRAPPED], strict=True))
    what = f"{processes} processes at once, {_SLOTS} contexts at a time"
    bench.row(
        f"{what}: total",
        f"native {native_s:.2f} s, wrapped {wrapped_s:.2f} s, added {added_s:.2f} s, ratio {ratio:.3f} ({pairs} pairs)",
        "added < 2 s",
        holds=added_s < _ADDED_MOST_S,
    )
    failed, timed_out = sum(line.failed for line in lines), sum(line.timed_out for line in lines)
    hello_s = max(line.slowest_hello_ns for line in lines) / 1e9
    start_s = max(line.slowest_start_ns for line in lines) / 1e9
    bench.row(
        f"{what}: failed, timed out",
        f"{failed}, {timed_out} of {in_all}; slowest cuInit {hello_s:.2f} s, slowest context {start_s:.2f} s",
        "0, 0",
        holds=(failed, timed_out) == (0, 0),
    )
    bench.row(
        f"{what}: ends with memory held, in the log",
        f"{sum(accounted)} of {in_all}",
        "all",
        holds=sum(accounted) == in_all,
    )
    shown = {line.smallest_total_bytes for line in lines} | {line.largest_total_bytes for line in lines}
    bench.row(
        f"{what}: total memory that they are shown",
        f"{', '.join(map(str, sorted(shown)))} bytes",
        f"the limit, {_LIMIT_BYTES}",
        holds=shown == {_LIMIT_BYTES},
    )
