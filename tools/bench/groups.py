# SPDX-License-Identifier: Apache-2.0
"""Measures what groups cost a decision of the engine: crowds of 1,000 containers in none, 1, 10 and 100 groups.

Needs no GPU and no root. Exit status 0: decisions take at most 1 ms at the 99th percentile, in every shape measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from crowd import ALIKE, MIXED, Shape
from decisions import TARGET_CONTAINERS, TARGET_P99_US, Cell, environment, measure

_GROUPS: Final = (0, 1, 10, 100)
_PLACES: Final = ((1, 1), (1, 8), (8, 8))
"""Devices of each container, of how many: where a container has one, each resource by itself decides."""


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="tools/bench/groups.py", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="data and table go there")
    parser.add_argument("--containers", type=int, default=TARGET_CONTAINERS, metavar="N")
    parser.add_argument("--groups", type=int, nargs="+", default=list(_GROUPS), metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="crowds of each shape")
    parser.add_argument("--events", type=int, default=1000, metavar="N", help="of each round, without its requests")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(Shape(arguments.containers, spans, devices, "fifo", kind, groups))
        for kind in (ALIKE, MIXED)
        for spans, devices in _PLACES
        for groups in arguments.groups
    ]
    began = time.monotonic()
    load = [os.getloadavg()]
    for seed in range(1, arguments.rounds + 1):  # rounds lie apart in time, so that their spread says something
        for cell in cells:
            cell.rounds.append(measure(cell.shape, seed, arguments.events))
            load.append(os.getloadavg())
            print(f"{time.monotonic() - began:6.0f} s  {cell.shape}  {cell.rounds[-1].by_kind['all']}", flush=True)
    made = environment("groups.py", arguments, time.monotonic() - began, load)
    rows = [{"shape": cell.shape._asdict(), "rounds": [asdict(each) for each in cell.rounds]} for cell in cells]
    (arguments.out / "data.json").write_text(json.dumps({"environment": made, "cells": rows}, indent=1) + "\n")
    (arguments.out / "table.md").write_text("\n".join(_table(cells)) + "\n")
    print(f"{arguments.out}/table.md")
    return 0 if all(cell.figure("p99_us") <= TARGET_P99_US for cell in cells) else 1


def _table(cells: list[Cell]) -> list[str]:
    lines = [
        "| limits | devices | groups | p50 of a decision, us | p99 (rounds) | event p99 | longest event |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        spread = cell.figures("p99_us")
        lines.append(
            f"| {cell.shape.kind} | {cell.shape.where} | {cell.shape.groups} | {cell.figure('p50_us'):.0f} "
            f"| **{cell.figure('p99_us'):.0f}** ({min(spread):.0f} to {max(spread):.0f}) "
            f"| {cell.figure('event_p99_us'):.0f} | {max(cell.figures('event_max_us')):.0f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
