# SPDX-License-Identifier: Apache-2.0
"""What a start costs with ConvGPU: `docker run` against `convgpu run`, or against `docker run --runtime`, in pairs.

The container runs `true`; each arm has the same image and arguments. The arms take turns and change who begins, so that
what the machine does besides falls on both. A pair's figure is the difference of its two starts, the result the median
of the pairs. The whole command is timed, from its start to its end, by the wall clock.

    python3 tools/bench/start.py --out DIR [--way run] [--way runtime] [--pairs 30] [--runtime convgpu]

Needs root, Docker and the simulated GPU; for `--way runtime` an engine that knows the runtime, and a daemon of its own
at the folder that this runtime looks for (`--run-dir`, `--state-dir`). Exit status 0: every target is met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from figures import quartiles

from convgpu.testing.stage import IMAGE, StageDaemon, make_image, output_of, simulated_gpu

_LIMIT: Final = "1GiB"
_MOST_MS: Final = {"run": 30.0, "runtime": 60.0}
"""What a start may cost more, at the median."""
_HEAD: Final = (
    "| way | pairs | without, ms | with, ms | more, ms | quartiles | at most, ms | |",
    "|---|--:|--:|--:|--:|--:|--:|---|",
)
_WARM_UP: Final = 3
_DOCKER: Final = ("--rm", "--network", "none", "-v", "/usr:/usr:ro")
_PROGRAM: Final = (IMAGE, "/usr/bin/true")


def _arms(way: str, runtime: str) -> tuple[list[str], list[str]]:
    """Return the command without ConvGPU and the one with it."""
    bare = ["docker", "run", *_DOCKER, *_PROGRAM]
    if way == "run":
        return bare, ["convgpu", "run", "--limit", _LIMIT, "--", *_DOCKER, *_PROGRAM]
    label = ["--runtime", runtime, "--label", f"convgpu.limit={_LIMIT}"]
    return bare, ["docker", "run", *label, *_DOCKER, *_PROGRAM]


def _timed_ms(command: Sequence[str]) -> float:
    began_ns = time.perf_counter_ns()
    output_of(*command)
    return (time.perf_counter_ns() - began_ns) / 1e6


def _measure(way: str, runtime: str, pairs: int) -> list[dict[str, object]]:
    arms = _arms(way, runtime)
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


def main() -> int:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="raw data and table go there")
    parser.add_argument("--way", action="append", choices=tuple(_MOST_MS), help="default: run")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--runtime", default="convgpu", help="its name in the engine")
    parser.add_argument("--run-dir", default="/run/convgpu-bench", help="where the daemon of the measurement lives")
    parser.add_argument("--state-dir", type=Path, help="default: a temporary folder")
    parser.add_argument("--probes", choices=("all", "physical", "off"), default="all", help="of the daemon")
    arguments = parser.parse_args()
    os.environ["CONVGPU_RUN_DIR"] = arguments.run_dir
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = _environment(sys.argv)
    folder = Path(tempfile.mkdtemp(prefix="convgpu-bench-"))
    state = () if arguments.state_dir is None else ("--state-dir", str(arguments.state_dir))
    make_image()
    samples: list[dict[str, object]] = []
    lines, holds = [], []
    try:
        with simulated_gpu():
            daemon = StageDaemon(folder, ["--simulated", "--probes", arguments.probes, *state])
            daemon.start()
            try:
                for way in arguments.way or ["run"]:
                    found = _measure(way, arguments.runtime, arguments.pairs)
                    line, held = _line(way, found)
                    samples += found
                    lines.append(line)
                    holds.append(held)
            finally:
                daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = "\n".join(("# What a start costs", "", *_HEAD, *lines)) + "\n"
    (arguments.out / "table.md").write_text(table)
    (arguments.out / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (arguments.out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    print(table)
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
