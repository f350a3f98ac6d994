# SPDX-License-Identifier: Apache-2.0
"""What a start costs with ConvGPU: `docker run` against `convgpu run`, or against `docker run --runtime`, in pairs.

The container runs `true`; each arm has the same image and arguments. The arms take turns and change who begins, so that
what the machine does besides falls on both. A pair's figure is the difference of its two starts, the result the median
of the pairs. The whole command is timed, from its start to its end, by the wall clock.

    python3 tools/bench/start.py --out DIR [--way run] [--way runtime] [--pairs 30] [--engine own] [--crowd 100]

Needs root, Docker and the simulated GPU. The engine is one of the measurement's own, which knows the runtime: of the
machine's Docker (`own`), or of a newer one that `tools/newer-docker` laid down (`newer`).

`--crowd N` afterwards starts N containers as fast as the engine can and compares what the engine lists, what the daemon
knows and what its log says. Exit status 0: every target is met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from figures import quartiles

from convgpu.oci.engine_settings import RUNTIME
from convgpu.testing.engine import NEWER, engine_stage
from convgpu.testing.stage import IMAGE, Stage, output_of, wait_until

_LIMIT: Final = "1GiB"
_MOST_MS: Final = {"run": 30.0, "runtime": 60.0}
"""What a start may cost more, at the median."""
_HEAD: Final = (
    "| way | pairs | without, ms | with, ms | more, ms | quartiles | at most, ms | |",
    "|---|--:|--:|--:|--:|--:|--:|---|",
)
_WARM_UP: Final = 3
_STARTERS: Final = 8
"""So many commands at once keep an engine busy that has a processor or a few."""
_DOCKER: Final = ("--rm", "--network", "none", "-v", "/usr:/usr:ro")
_PROGRAM: Final = (IMAGE, "/usr/bin/true")


def _arms(way: str) -> tuple[list[str], list[str]]:
    """Return the command without ConvGPU and the one with it."""
    bare = ["docker", "run", *_DOCKER, *_PROGRAM]
    if way == "run":
        return bare, ["convgpu", "run", "--limit", _LIMIT, "--", *_DOCKER, *_PROGRAM]
    label = ["--runtime", RUNTIME, "--label", f"convgpu.limit={_LIMIT}"]
    return bare, ["docker", "run", *label, *_DOCKER, *_PROGRAM]


def _timed_ms(command: Sequence[str]) -> float:
    began_ns = time.perf_counter_ns()
    output_of(*command)
    return (time.perf_counter_ns() - began_ns) / 1e6


def _measure(way: str, pairs: int) -> list[dict[str, object]]:
    arms = _arms(way)
    for _ in range(_WARM_UP):
        for command in arms:
            output_of(*command)
    samples = []
    for number in range(pairs):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        took_ms = {arm: _timed_ms(arms[arm]) for arm in order}
        samples.append({"way": way, "pair": number, "bare_ms": took_ms[0], "with_ms": took_ms[1], "first": order[0]})
    return samples


def _line(way: str, samples: Sequence[dict[str, object]]) -> tuple[str, bool]:
    bare = [float(str(sample["bare_ms"])) for sample in samples]
    with_ = [float(str(sample["with_ms"])) for sample in samples]
    added = [more - less for more, less in zip(with_, bare, strict=True)]
    first, third = quartiles(added)
    median = statistics.median(added)
    holds = median <= _MOST_MS[way]
    line = (
        f"| {way} | {len(added)} | {statistics.median(bare):.1f} | {statistics.median(with_):.1f} | {median:+.1f} "
        f"| {first:+.1f} to {third:+.1f} | {_MOST_MS[way]:.0f} | {'met' if holds else '**MISSED**'} |"
    )
    return line, holds


def _environment(command: Sequence[str]) -> dict[str, object]:
    version = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=False
    )
    return {
        "command": " ".join(command),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "docker": version.stdout.strip(),
        "python": platform.python_version(),
        "load_before": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _crowd(stage: Stage, size: int) -> dict[str, object]:
    """Start many containers at once; return how long that took, and who was missed by whom."""
    names = [f"crowd-{number}" for number in range(size)]
    options = ("-d", "--network", "none", "-v", "/usr:/usr:ro")

    def start(name: str) -> str:
        program = (IMAGE, "/usr/bin/sleep", "600")
        return output_of("convgpu", "run", "--limit", "64MiB", "--", *options, "--name", name, *program).strip()

    began_s = time.monotonic()
    with ThreadPoolExecutor(_STARTERS) as starters:
        started = set(starters.map(start, names))
    all_started_s = time.monotonic() - began_s
    wait_until("all are known", lambda: len(stage.listing()) == size)
    all_known_s = time.monotonic() - began_s
    listed = set(output_of("docker", "ps", "--no-trunc", "--quiet").split())
    known = {entry["container_id"] for entry in stage.listing().values()}
    output_of("docker", "kill", *names)
    wait_until("all are gone", lambda: not stage.listing(), timeout_s=120)
    records = stage.log().follow()
    counts = {
        kind: Counter(record["container"]["id"] for record in records if record["type"] == kind)
        for kind in ("container.seen", "container.gone")
    }
    return {
        "containers": size,
        "all_started_s": round(all_started_s, 3),
        "all_known_s": round(all_known_s, 3),
        "missed_by_the_daemon": len(listed - known),
        "unknown_to_the_engine": len(known - listed),
        "records_of_a_start": sum(counts["container.seen"][container] for container in started),
        "records_of_an_end": sum(counts["container.gone"][container] for container in started),
        "not_recorded_once": sum(
            (counts["container.seen"][container], counts["container.gone"][container]) != (1, 1)
            for container in started
        ),
    }


def main() -> int:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="raw data and table go there")
    parser.add_argument("--way", action="append", choices=tuple(_MOST_MS), help="default: run")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--engine", choices=("own", "newer"), default="own", help="whose Docker is measured")
    parser.add_argument("--crowd", type=int, default=0, metavar="N", help="start so many at once afterwards")
    parser.add_argument("--probes", choices=("all", "physical", "off"), default="all", help="of the daemon")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    programs = NEWER if arguments.engine == "newer" else None
    samples: list[dict[str, object]] = []
    lines, holds = [], []
    with engine_stage("bench", ("--probes", arguments.probes), programs=programs) as (stage, _):
        environment = _environment(sys.argv)
        for way in arguments.way or ["run"]:
            found = _measure(way, arguments.pairs)
            line, held = _line(way, found)
            samples += found
            lines.append(line)
            holds.append(held)
        crowd = _crowd(stage, arguments.crowd) if arguments.crowd else None
    table = "\n".join(("# What a start costs", "", *_HEAD, *lines)) + "\n"
    if crowd is not None:
        (arguments.out / "crowd.json").write_text(json.dumps(crowd, indent=2) + "\n")
        holds.append(
            not any(crowd[name] for name in ("missed_by_the_daemon", "unknown_to_the_engine", "not_recorded_once"))
        )
        table += "\n# Many at once\n\n| what | figure |\n|---|--:|\n"
        table += "".join(f"| {name.replace('_', ' ')} | {figure} |\n" for name, figure in crowd.items())
    (arguments.out / "table.md").write_text(table)
    (arguments.out / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (arguments.out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    print(table)
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
