# SPDX-License-Identifier: Apache-2.0
"""Measures how long commands take from a fresh process: wall-clock and processor time. Needs no GPU.

The commands that ask a daemon ask one that is given by --run-dir, or else a control socket of `convgpu.testing` in
another process, with 20 containers. --cold drops the kernel's caches before each run as well (root), so that the
interpreter and every module come from the disk.

Exit status 0: the medians of what is promised are within it: `convgpu --help` 120 ms, `convgpu ps` 250 ms, that also
with dropped caches where they were measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from convgpu import __version__
from convgpu.core.units import GIB
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import container_status, device_usage, sample_snapshot

_CONTAINERS: Final = 20
_WARM_UP: Final = 3
_SERVE: Final = "--serve"
_PROGRAM: Final = "convgpu"
_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "python3 -c pass": (sys.executable, "-c", "pass"),
    "convgpu --help": (_PROGRAM, "--help"),
    "convgpu run --help": (_PROGRAM, "run", "--help"),
    "convgpu ps": (_PROGRAM, "ps"),
    "convgpu ps --format csv": (_PROGRAM, "ps", "--format", "csv"),
    "convgpu queue": (_PROGRAM, "queue"),
    "convgpu events": (_PROGRAM, "events"),
    "completing a container's name": (_PROGRAM,),
}
_COMPLETION: Final = {"_CONVGPU_COMPLETE": "bash_complete", "COMP_WORDS": "convgpu limit set a", "COMP_CWORD": "3"}
_PROMISED_MS: Final = {("convgpu --help", "warm"): 120.0, ("convgpu ps", "warm"): 250.0, ("convgpu ps", "cold"): 250.0}


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one command.

    Attributes:
        caches: `warm` or `cold`.
        cpu_ms: User and system time of the process.
    """

    command: str
    caches: str
    run: int
    wall_ms: float
    cpu_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where samples.csv, environment.json and table.md go")
    parser.add_argument("--runs", type=int, default=40, help="of each command, with warm caches")
    parser.add_argument("--cold", type=int, default=0, metavar="N", help="runs of each command with dropped caches")
    parser.add_argument("--run-dir", type=Path, help="of a daemon that runs")
    parser.add_argument(_SERVE, type=Path, dest="serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        return serve(arguments.serve)
    if arguments.out is None:
        parser.error("--out is needed")
    if shutil.which(_PROGRAM) is None:
        parser.error(f"{_PROGRAM} is not on the PATH")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with _daemon(arguments.run_dir) as run_dir:
        samples = [*measured(run_dir, "warm", arguments.runs), *measured(run_dir, "cold", arguments.cold)]
    write(arguments.out, samples, arguments.run_dir)
    missed = [text for text in verdicts(samples) if text.startswith("missed")]
    print((arguments.out / "table.md").read_text())
    return 1 if missed else 0


@contextmanager
def _daemon(given: Path | None) -> Iterator[Path]:
    """Return the folder of a daemon, or of something that answers as one, in a process of its own."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="convgpu-bench-") as name:
        folder = Path(name)
        with subprocess.Popen([sys.executable, __file__, _SERVE, name], stdin=subprocess.PIPE) as server:
            while not (folder / "control.sock").exists():
                time.sleep(0.01)
            try:
                yield folder
            finally:
                assert server.stdin is not None
                server.stdin.close()


def serve(folder: Path) -> int:
    """Answer as a daemon until stdin ends."""
    snapshot = sample_snapshot()
    containers = tuple(
        container_status(f"container-{number:02}", device_usage(number * GIB, 40 * GIB))
        for number in range(_CONTAINERS)
    )
    with FakeControlServer(replace(snapshot, containers=containers), folder / "control.sock"):
        sys.stdin.read()
    return 0


def measured(run_dir: Path, caches: str, runs: int) -> Iterator[Sample]:
    """Run the commands in turns, so that what disturbs one moment disturbs all of them alike."""
    environment = {**os.environ, "CONVGPU_RUN_DIR": str(run_dir)}
    for run in range(-_WARM_UP if caches == "warm" and runs else 0, runs):
        for name, words in _COMMANDS.items():
            if caches == "cold":
                drop_caches()
            more = _COMPLETION if len(words) == 1 else {}
            wall_ms, cpu_ms = once(words, environment | more)
            if run >= 0:
                yield Sample(name, caches, run, round(wall_ms, 3), round(cpu_ms, 3))


def once(words: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command and return its wall-clock and processor time in milliseconds."""
    with Path(os.devnull).open("wb") as nowhere:
        began_ns = time.monotonic_ns()
        process = subprocess.Popen(words, env=environment, stdout=nowhere, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(process.pid, 0)
        wall_ms = (time.monotonic_ns() - began_ns) / 1e6
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{shlex.join(words)} ended with status {process.returncode}: {said}")
    return wall_ms, (usage.ru_utime + usage.ru_stime) * 1000


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def verdicts(samples: Sequence[Sample]) -> Iterator[str]:
    """Say of everything that is promised whether it is kept."""
    for (command, caches), promised_ms in _PROMISED_MS.items():
        walls = [each.wall_ms for each in samples if (each.command, each.caches) == (command, caches)]
        if walls:
            median_ms = statistics.median(walls)
            word = "kept" if median_ms <= promised_ms else "missed"
            yield f"{word}: `{command}`, {caches}: {median_ms:.0f} ms of {promised_ms:.0f}"


def write(out: Path, samples: Sequence[Sample], run_dir: Path | None) -> None:
    """Write what was measured, where, and what it comes to."""
    with (out / "samples.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Sample)]
        table.writerow(names)
        table.writerows([getattr(sample, name) for name in names] for sample in samples)
    (out / "environment.json").write_text(json.dumps(environment_of(run_dir), indent=1) + "\n")
    lines = ["| command | caches | runs | wall, median | wall, 95 % | processor, median |", "|---|---|---|---|---|---|"]
    for command in _COMMANDS:
        for caches in ("warm", "cold"):
            of_it = [each for each in samples if (each.command, each.caches) == (command, caches)]
            if of_it:
                walls = sorted(each.wall_ms for each in of_it)
                late_ms = walls[min(len(walls) - 1, int(len(walls) * 0.95))]
                cpu_ms = statistics.median(each.cpu_ms for each in of_it)
                lines.append(
                    f"| {command} | {caches} | {len(of_it)} | {statistics.median(walls):.0f} ms | {late_ms:.0f} ms "
                    f"| {cpu_ms:.0f} ms |"
                )
    (out / "table.md").write_text("\n".join([*lines, "", *(f"- {each}" for each in verdicts(samples))]) + "\n")


def environment_of(run_dir: Path | None) -> dict[str, object]:
    """Return where and when it was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "convgpu": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": model,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "daemon": "one that runs" if run_dir is not None else f"convgpu.testing, {_CONTAINERS} containers",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(main())
