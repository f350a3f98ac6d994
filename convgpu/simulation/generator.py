# SPDX-License-Identifier: Apache-2.0
"""Workloads made from a few numbers and a seed: the same numbers make the same containers.

Everything that is drawn for a container is drawn for each, used or not, and containers are drawn one after another. So
a workload of 30 containers begins with the 20 of the same seed, and another duration leaves the sizes as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from convgpu.core.identity import ContainerId
from convgpu.core.quota import Quota
from convgpu.core.units import format_size
from convgpu.errors import UsageError
from convgpu.simulation.phases import Phases
from convgpu.simulation.workload import Container, Device, Process, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What to make.

    Attributes:
        containers: How many.
        sizes_bytes: Limits, each as likely as any other; one that stands there twice is twice as likely.
        interval_ns: From one arrival to the next; with `poisson` the mean of that.
        poisson: Draw the intervals from an exponential distribution, so that arrivals are a Poisson process.
        shortest_ns, longest_ns: How long a container runs if it never waits; drawn uniformly, to the millisecond.
        steps: In so many equal parts it takes its memory, spread evenly over that time.
        guarantee_percent: The guarantee as a part of the limit.
        priorities: Priorities are drawn from 0 to this number less one.
        wait_ns: How long a request may wait; None: for ever.
    """

    containers: int
    sizes_bytes: tuple[int, ...]
    interval_ns: int
    shortest_ns: int
    longest_ns: int
    poisson: bool = False
    steps: int = 1
    guarantee_percent: int = 100
    priorities: int = 1
    wait_ns: int | None = None


def generate(shape: Shape, devices: Sequence[Device], seed: int) -> Workload:
    """Make a workload; each container uses one of the devices, drawn uniformly.

    Raises:
        UsageError: The shortest duration is longer than the longest.
    """
    if shape.shortest_ns > shape.longest_ns:
        raise UsageError("the shortest duration is longer than the longest")
    sizes = ", ".join(format_size(size_bytes) for size_bytes in dict.fromkeys(shape.sizes_bytes))
    title = f"{shape.containers} container{'' if shape.containers == 1 else 's'} of {sizes}, seed {seed}"
    return Workload(title, tuple(devices), tuple(_containers(shape, devices, Random(seed))))  # noqa: S311  # reproducible


def draw(rng: Random, count: int) -> int:
    """Draw a number from 0 to count - 1; whatever the count, the generator goes one step."""
    return int(rng.random() * count)


def _containers(shape: Shape, devices: Sequence[Device], rng: Random) -> Iterator[Container]:
    arrival_ns = 0
    shortest_ms = shape.shortest_ns // 1_000_000
    digits = len(str(shape.containers - 1))
    for number in range(shape.containers):
        limit_bytes = shape.sizes_bytes[draw(rng, len(shape.sizes_bytes))]
        run_ms = shortest_ms + draw(rng, shape.longest_ns // 1_000_000 - shortest_ms + 1)
        gap_ns = round(rng.expovariate(1.0) * shape.interval_ns)
        device = devices[draw(rng, len(devices))]
        priority = draw(rng, shape.priorities)
        yield Container(
            container_id=ContainerId(f"c{number:0{digits}}"),
            name=f"c{number:0{digits}}",
            arrival_ns=arrival_ns,
            created_ns=arrival_ns,
            quotas={device.gpu: Quota(limit_bytes, limit_bytes * shape.guarantee_percent // 100)},
            processes=(_process(device, limit_bytes, run_ms * 1_000_000, shape.steps),),
            priority=priority,
            wait_ns=shape.wait_ns,
        )
        arrival_ns += gap_ns if shape.poisson else shape.interval_ns


def _process(device: Device, size_bytes: int, run_ns: int, steps: int) -> Process:
    phases = Phases()
    for step in range(steps):
        part_bytes = size_bytes * (step + 1) // steps - size_bytes * step // steps
        if part_bytes:
            phases.allocate(device.gpu, part_bytes)
        phases.run(run_ns * (step + 1) // steps - run_ns * step // steps)
    return Process(phases.end())
