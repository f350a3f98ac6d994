# SPDX-License-Identifier: Apache-2.0
"""Measures how long decisions of the engine take, with crowds of containers that wait. Needs no GPU and no root.

Exit status 0: with 1,000 containers, decisions take at most 1 ms at the 99th percentile, in every shape measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from crowd import ALIKE, MIXED, WAITING_EACH, Crowd, Sample, Shape
from loglog import Plot

from convgpu import __version__
from convgpu.core.algorithms import OWN_ALGORITHMS

TARGET_CONTAINERS: Final = 1000
TARGET_P99_US: Final = 1000.0
_GROWTH_ALGORITHM: Final = "fifo"
_SIZES: Final = (30, 100, 300, 1000, 2000, 4000)
_FEWEST: Final = {ALIKE: 10, MIXED: 50}
"""Containers on each device; fewer do not make a crowd in which somebody always waits."""
_PLACES: Final = ((1, 1), (2, 2), (1, 8), (2, 8), (4, 8), (8, 8))
_OTHER_PLACES: Final = ((1, 1), (2, 2), (8, 8))


@dataclass(frozen=True)
class Times:
    """A summary of events, in microseconds.

    Attributes:
        events: How many.
        decisions: How many decisions they took together.
        p99_us: Of the time of a decision: of what an event took, divided by its decisions.
        answer_p99_us: The same, if only answers counted as decisions.
        event_p50_us: Of the time of an event.
        event_p99_us: Of the time of an event.
        event_max_us: The longest event.
    """

    events: int
    decisions: int
    p50_us: float
    p99_us: float
    answer_p99_us: float
    event_p50_us: float
    event_p99_us: float
    event_max_us: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Times:
        """Summarise; percentiles are nearest ranks, so they are samples that were seen."""
        each = sorted(sample.took_ns / sample.decisions / 1000 for sample in samples)
        answers = sorted(sample.took_ns / sample.answers / 1000 for sample in samples)
        events = sorted(sample.took_ns / 1000 for sample in samples)
        figures = (
            _rank(each, 0.5),
            _rank(each, 0.99),
            _rank(answers, 0.99),
            _rank(events, 0.5),
            _rank(events, 0.99),
            events[-1],
        )
        return cls(len(samples), sum(sample.decisions for sample in samples), *(round(figure, 2) for figure in figures))


@dataclass(frozen=True)
class Round:
    """One crowd, from its beginning.

    Attributes:
        waiting_containers: How many containers waited at its end.
        collections: How often Python collected all garbage while it was timed.
        by_kind: Its events by kind; `all`: all together.
    """

    seed: int
    waiting_containers: int
    collections: int
    by_kind: dict[str, Times]


@dataclass(frozen=True)
class Cell:
    """All rounds of one shape."""

    shape: Shape
    rounds: list[Round] = field(default_factory=list)

    def figure(self, name: str, kind: str = "all") -> float:
        """The median of the rounds."""
        return statistics.median(self.figures(name, kind))

    def figures(self, name: str, kind: str = "all") -> list[float]:
        """One figure of every round in which such events happened."""
        return [getattr(each.by_kind[kind], name) for each in self.rounds if kind in each.by_kind]


def shapes(sizes: Sequence[int], algorithms: Sequence[str]) -> Iterator[Shape]:
    """Growth with one algorithm, then all others at the size of the target."""
    for kind in (ALIKE, MIXED):
        for spans, devices in _PLACES:
            for containers in sizes:
                if containers * spans >= _FEWEST[kind] * devices:
                    yield Shape(containers, spans, devices, _GROWTH_ALGORITHM, kind)
    for algorithm in algorithms:
        for kind in (ALIKE, MIXED):
            for spans, devices in _OTHER_PLACES:
                yield Shape(TARGET_CONTAINERS, spans, devices, algorithm, kind)


def measure(shape: Shape, seed: int, events: int) -> Round:
    """Build a crowd, let it live for a while to warm up, then time its life."""
    crowd = Crowd(shape, seed)
    crowd.live(events // 4)
    crowd.check()
    crowd.samples.clear()
    gc.collect()
    before = gc.get_stats()[2]["collections"]
    crowd.live(events)
    collections = gc.get_stats()[2]["collections"] - before
    crowd.check()
    by_kind = {kind: Times.of(samples) for kind, samples in sorted(crowd.samples.items())}
    by_kind["all"] = Times.of([sample for samples in crowd.samples.values() for sample in samples])
    return Round(seed, crowd.waiting_containers, collections, by_kind)


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _table(cells: Sequence[Cell]) -> Iterator[str]:
    yield (
        "| limits | devices | algorithm | containers | p50 | p99 (rounds) | p99, answers alone "
        "| event p50 | event p99 | longest event |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for cell in cells:
        shape = cell.shape
        spread = cell.figures("p99_us")
        what = f"{shape.kind} | {shape.where} | {shape.algorithm} | {shape.containers:,}"
        each = f"{cell.figure('p50_us'):.0f} | **{cell.figure('p99_us'):.0f}** ({min(spread):.0f} to {max(spread):.0f})"
        each += f" | {cell.figure('answer_p99_us'):.0f}"
        event = f"{cell.figure('event_p50_us'):.0f} | {cell.figure('event_p99_us'):.0f}"
        yield f"| {what} | {each} | {event} | {max(cell.figures('event_max_us')):.0f} |"


def _kinds(cells: Sequence[Cell]) -> Iterator[str]:
    kinds = sorted({kind for cell in cells for each in cell.rounds for kind in each.by_kind} - {"all"})
    yield "| limits | devices | " + " | ".join(kinds) + " |"
    yield "|---|---|" + "---|" * len(kinds)
    for cell in cells:
        figures = (cell.figures("p99_us", kind) for kind in kinds)
        texts = (f"{statistics.median(each):.0f}" if each else "" for each in figures)
        yield f"| {cell.shape.kind} | {cell.shape.where} | " + " | ".join(texts) + " |"


def _plot(cells: Sequence[Cell], kind: str) -> Plot:
    growth = [cell for cell in cells if cell.shape.algorithm == _GROWTH_ALGORITHM and cell.shape.kind == kind]
    curves: dict[str, list[tuple[float, float]]] = {}
    for cell in growth:
        curves.setdefault(cell.shape.where, []).append((cell.shape.containers, cell.figure("p99_us")))
    first, highest = max(point for curve in curves.values() for point in curve[:1])

    def n_log_n(n: float) -> float:
        return highest * n * math.log(n) / (first * math.log(first))

    title = f"p99 of a decision, {_GROWTH_ALGORITHM}, limits {kind}, {WAITING_EACH} waiting requests for each container"
    return Plot(title, "containers", "microseconds", curves, {"n log n": n_log_n}, {"1 ms": TARGET_P99_US})


def environment(
    program: str, arguments: argparse.Namespace, took_s: float, load: list[tuple[float, ...]]
) -> dict[str, Any]:
    """Return what a measurement was made with, on and under."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "convgpu": __version__,
        "commit": os.environ.get("CONVGPU_COMMIT") or commit.stdout.strip(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "command": shlex.join([f"tools/bench/{program}", *sys.argv[1:]]),
        "rounds": arguments.rounds,
        "events": arguments.events,
        "took_s": round(took_s),
        "load_averages_least": min(load),
        "load_averages_most": max(load),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _write(folder: Path, cells: Sequence[Cell], environment: dict[str, Any]) -> bool:
    """Write data.json, table.md and the plots; True: the target is met."""
    data = [{"shape": cell.shape._asdict(), "rounds": [asdict(each) for each in cell.rounds]} for cell in cells]
    (folder / "data.json").write_text(json.dumps({"environment": environment, "cells": data}, indent=1) + "\n")
    at_target = [cell for cell in cells if cell.shape.containers == TARGET_CONTAINERS]
    missed = [cell for cell in at_target if cell.figure("p99_us") > TARGET_P99_US]
    verdict = "met in all" if at_target and not missed else f"**MISSED** in {len(missed)}"
    lines = [
        (
            f"Target: p99 of a decision at most {TARGET_P99_US:.0f} us with {TARGET_CONTAINERS:,} containers and "
            f"{WAITING_EACH * TARGET_CONTAINERS:,} waiting requests: {verdict} of {len(at_target)} shapes; all in us."
        ),
        "",
        *_table(cells),
        "",
        f"p99 of a decision by kind of event, {TARGET_CONTAINERS:,} containers, {_GROWTH_ALGORITHM}:",
        "",
        *_kinds([cell for cell in at_target if cell.shape.algorithm == _GROWTH_ALGORITHM]),
    ]
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    for kind in (ALIKE, MIXED):
        (folder / f"plot-{kind}.svg").write_text(_plot(cells, kind).svg())
    return bool(at_target) and not missed


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="tools/bench/decisions.py", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="data, table and plots go there")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(_SIZES), metavar="N", help="containers")
    others = [name for name in OWN_ALGORITHMS if name != _GROWTH_ALGORITHM]
    parser.add_argument("--algorithms", nargs="*", default=others, choices=others, help=f"beside {_GROWTH_ALGORITHM}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="crowds of each shape")
    parser.add_argument("--events", type=int, default=1000, metavar="N", help="of each round, without its requests")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells = [Cell(shape) for shape in shapes(arguments.sizes, arguments.algorithms)]
    began = time.monotonic()
    load = [os.getloadavg()]
    for seed in range(1, arguments.rounds + 1):  # rounds lie apart in time, so that their spread says something
        for cell in cells:
            cell.rounds.append(measure(cell.shape, seed, arguments.events))
            load.append(os.getloadavg())
            print(
                f"{time.monotonic() - began:6.0f} s  {cell.shape}  p99 {cell.rounds[-1].by_kind['all'].p99_us} us",
                flush=True,
            )
    is_met = _write(arguments.out, cells, environment("decisions.py", arguments, time.monotonic() - began, load))
    print(f"{arguments.out}/table.md", flush=True)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
