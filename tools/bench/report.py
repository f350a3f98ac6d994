# SPDX-License-Identifier: Apache-2.0
"""Writes the table, and what it was measured on."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import Bench, first_line

from convgpu import __version__


def write(bench: Bench, folder: Path, took_s: float, stopped: str | None) -> None:
    """Write DIR/table.md and DIR/environment.json."""
    environment: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": bench.gpu.label,
        "simulated": not bench.gpu.real,
        "convgpu": __version__,
        "commit": os.environ.get("CONVGPU_COMMIT")
        or first_line(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "docker": first_line(["docker", "version", "--format", "{{.Server.Version}}"]),
        "python": platform.python_version(),
        "command": shlex.join(["tools/bench/run", *sys.argv[1:]]),
        "took_s": round(took_s, 1),
        "load_averages_before": bench.load,
        "stopped": stopped,
    }
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    missed = [row for row in bench.rows if row.holds is False]
    lines = [
        f"# ConvGPU against native, {environment['date'][:10]}" + (" (simulated GPU)" if not bench.gpu.real else ""),
        "",
        (
            f"{bench.gpu.label}; kernel {environment['kernel']}, {environment['cpus']} x {environment['cpu']}, "
            f"Docker {environment['docker']}; ConvGPU {__version__} ({environment['commit']}); "
            f"{environment['date']}, {took_s:.0f} s."
        ),
        "",
        f"`{environment['command']}`",
        "",
        f"**{sum(row.holds is True for row in bench.rows)} targets met, {len(missed)} missed.**",
    ]
    if stopped:
        lines += ["", f"**The run stopped early: {stopped}**"]
    lines += ["", "| what | found | target | |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.found} | {row.target} | {row.verdict} |" for row in bench.rows]
    if bench.notes:
        lines += ["", *(f"- {note}" for note in bench.notes)]
    (folder / "table.md").write_text("\n".join(lines) + "\n")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
