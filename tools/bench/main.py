# SPDX-License-Identifier: Apache-2.0
"""Measures ConvGPU: native against wrapped in one run. Exit status 0 if every target is met, 1 if one is missed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import calls
import herd
import ledger
import library
import limit
import probes
import report
import train
from bench import Bench, RawData
from gpu import build_programs, open_gpu
from session import Rig

from convgpu.errors import ConvgpuError
from convgpu.testing.stage import StageError, interpreter, make_image

_SIM_PROCESSES: Final = 40
_REAL_PROCESSES: Final = 300

MEASUREMENTS: Final[dict[str, Callable[[Bench], None]]] = {
    "calls": calls.measure,
    "daemon": calls.measure_daemon,
    "herd": herd.measure,
    "limit": limit.measure,
    "ledger": ledger.measure,
    "library": library.measure,
    "probes": probes.measure,
    "train": train.measure,
}


def _measure(name: str, bench: Bench) -> None:
    try:
        MEASUREMENTS[name](bench)
    except Exception as error:  # noqa: BLE001 -- the others still count; this one is a failure in the table, not a gap
        traceback.print_exc()
        bench.row(f"{name}: could not be measured", f"{type(error).__name__}: {error}", "measured", holds=False)


def _run(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("CONVGPU_RUN_DIR", "/run/convgpu-bench")
    folder = Path(tempfile.mkdtemp(prefix="convgpu-bench-"))
    folder.chmod(0o755)
    raw = RawData(arguments.out)
    began = time.monotonic()
    failures = 0
    try:
        make_image()
        with open_gpu(arguments.gpu, arguments.torch) as gpu:
            build_programs(gpu, folder)
            processes = arguments.processes or (_REAL_PROCESSES if gpu.real else _SIM_PROCESSES)
            rig = Rig(gpu.docker, folder)
            bench = Bench(gpu, rig, folder, raw, arguments.generations, processes, arguments.torch)
            print(f"ConvGPU benchmark on: {gpu.label}", flush=True)
            stopped: str | None = "interrupted"
            try:
                for name in arguments.only or MEASUREMENTS:
                    print(f"{name} ({time.monotonic() - began:.0f} s)", flush=True)
                    _measure(name, bench)
                stopped = None
            finally:
                report.write(bench, arguments.out, time.monotonic() - began, stopped)
            failures = sum(row.holds is False for row in bench.rows)
    except (StageError, ConvgpuError) as error:
        print(f"the benchmark stopped: {error}", file=sys.stderr)
        return 1
    finally:
        raw.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.out}/table.md: {failures} targets missed, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failures else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="tools/bench/run", description=__doc__)
    parser.add_argument("--gpu", choices=("sim", "real"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="raw data and table go there")
    parser.add_argument(
        "--torch", metavar="PYTHON", type=interpreter, help="an interpreter with PyTorch, for the ledger's steps"
    )
    parser.add_argument(
        "--only", action="append", choices=tuple(MEASUREMENTS), help="this measurement; may be repeated"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="that start at once (real 300, simulated 40)")
    parser.add_argument("--generations", type=int, default=10, metavar="N", help="how often processes start anew")
    return _run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
