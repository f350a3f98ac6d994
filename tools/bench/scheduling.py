# SPDX-License-Identifier: Apache-2.0
"""How the algorithms and the bound on passing over do under load, in virtual time: the comparison of decision 9.

    python3 tools/bench/scheduling.py --out DIR

Deterministic: the same version prints the same figures on every machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from convgpu.core.algorithms import OWN_ALGORITHMS
from convgpu.core.identity import GpuUuid
from convgpu.core.units import GIB
from convgpu.simulation.generator import Shape, generate
from convgpu.simulation.result import Settings
from convgpu.simulation.simulator import simulate
from convgpu.simulation.workload import Device

_NS_PER_S: Final = 10**9
_SHAPES: Final[dict[str, dict[str, Any]]] = {
    "all at once, guaranteed": {"steps": 1, "guarantee_percent": 100},
    "in four steps, a quarter guaranteed": {"steps": 4, "guarantee_percent": 25, "priorities": 5},
}
_HEADING: Final = (
    "| algorithm | max_bypass | last end, s | mean wait, s | worst wait, s | used |\n|---|---|---|---|---|---|"
)


def main() -> None:
    """Simulate, print a table, write both forms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--containers", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    device = Device(GpuUuid("0"), "0", 80 * GIB)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for name, shape in _SHAPES.items():
        workload = generate(
            Shape(
                containers=arguments.containers,
                sizes_bytes=(2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB),
                interval_ns=17 * _NS_PER_S,
                shortest_ns=30 * _NS_PER_S,
                longest_ns=300 * _NS_PER_S,
                poisson=True,
                **shape,
            ),
            [device],
            arguments.seed,
        )
        lines += [f"\n### {name}\n", _HEADING]
        for algorithm in OWN_ALGORITHMS:
            for max_bypass in (0, 64):
                result = simulate(workload, Settings(algorithm=algorithm, max_bypass=max_bypass))
                summary, used = result.summary, result.devices[0].used
                row = {
                    "load": name,
                    "algorithm": algorithm,
                    "max_bypass": max_bypass,
                    "finish_s": summary.finish_s,
                    "mean_suspended_s": summary.mean_suspended_s,
                    "worst_suspended_s": summary.worst_suspended_s,
                    "used": used,
                }
                rows.append(row)
                lines.append(
                    f"| {algorithm} | {max_bypass} | {summary.finish_s:.0f} | {summary.mean_suspended_s:.0f} | "
                    f"{summary.worst_suspended_s:.0f} | {used:.0%} |"
                )
    print("\n".join(lines))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "scheduling.json").write_text(json.dumps(rows, indent=1) + "\n")
    (arguments.out / "table.md").write_text("\n".join(lines).lstrip() + "\n")


if __name__ == "__main__":
    main()
