# SPDX-License-Identifier: Apache-2.0
"""The experiment of the 2017 paper (DOI 10.1109/CLUSTER.2017.17), part 4, as far as it is known here.

Known: one GPU; 4 to 38 containers of mixed sizes, started at intervals; finish time and mean suspended time for each
algorithm. Not known here, and chosen by us: the six sizes, how long a container of each size runs, the interval, the
memory of the GPU, and who was drawn in which order. So it compares algorithms as the paper did; its figures are not
the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.quota import Quota
from convgpu.core.units import GIB, MIB
from convgpu.simulation.generator import draw
from convgpu.simulation.phases import Phases
from convgpu.simulation.workload import Container, Device, Process, Workload

COUNTS: Final = tuple(range(4, 39, 2))
"""How many containers; the paper's range."""
GPU: Final = Device(GpuUuid("0"), "0", 5 * GIB)
"""Assumed: a little more than the largest container, so that it cannot run beside most others."""
TYPES: Final = tuple((128 * MIB << step, 5 + 8 * step) for step in range(6))
"""Assumed: limits from 128 MiB to 4 GiB, each twice the one before, and how many seconds such a container runs."""
INTERVAL_S: Final = 5
"""Assumed: from one start to the next."""

_SECOND_NS: Final = 1_000_000_000


def workloads(seed: int) -> Iterator[Workload]:
    """The experiment: the same containers each time, and two more."""
    containers = tuple(_containers(max(COUNTS), Random(seed)))  # noqa: S311  # reproducible
    for number in COUNTS:
        yield Workload(f"scenario paper, seed {seed}, {number} containers", (GPU,), containers[:number])


def _containers(number: int, rng: Random) -> Iterator[Container]:
    for index in range(number):
        limit_bytes, run_s = TYPES[draw(rng, len(TYPES))]
        phases = Phases()
        phases.allocate(GPU.gpu, limit_bytes)
        phases.run(run_s * _SECOND_NS)
        arrival_ns = index * INTERVAL_S * _SECOND_NS
        yield Container(
            container_id=ContainerId(f"c{index:02}"),
            name=f"c{index:02}",
            arrival_ns=arrival_ns,
            created_ns=arrival_ns,
            quotas={GPU.gpu: Quota(limit_bytes, limit_bytes)},
            processes=(Process(phases.end()),),
        )
