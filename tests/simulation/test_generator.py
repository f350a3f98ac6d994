# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from convgpu.core.identity import GpuUuid
from convgpu.core.units import GIB, MIB
from convgpu.errors import UsageError
from convgpu.simulation import paper
from convgpu.simulation.generator import Shape, generate
from convgpu.simulation.phases import parse_phases
from convgpu.simulation.workload import Ask, Container, Device

SECOND = 1_000_000_000
GPU = Device(GpuUuid("0"), "0", 10 * GIB)
SHAPE = Shape(
    containers=30,
    sizes_bytes=(GIB, 2 * GIB),
    interval_ns=5 * SECOND,
    shortest_ns=10 * SECOND,
    longest_ns=20 * SECOND,
)


def made(seed: int = 0, devices: tuple[Device, ...] = (GPU,), **changes: object) -> tuple[Container, ...]:
    return generate(replace(SHAPE, **changes), devices, seed).containers  # type: ignore[arg-type]


def run_ns(container: Container) -> int:
    return sum(step.delay_ns for step in container.processes[0].steps)


def test_the_seed_says_which_containers() -> None:
    assert made(1) == made(1) != made(2)


def test_fewer_are_the_first_of_more_and_other_durations_leave_the_sizes() -> None:
    def essence(containers: tuple[Container, ...]) -> list[tuple[object, ...]]:
        return [(each.arrival_ns, each.quotas, each.priority) for each in containers]

    few, more = made(containers=10), made(containers=30)
    assert [(*one, run_ns(each)) for one, each in zip(essence(few), few, strict=True)] == [
        (*one, run_ns(each)) for one, each in zip(essence(more), more, strict=True)
    ][:10]
    assert essence(made(shortest_ns=SECOND)) == essence(made())


def test_sizes_times_and_arrivals_are_as_asked() -> None:
    containers = made()
    assert {each.quotas[GPU.gpu].limit_bytes for each in containers} == {GIB, 2 * GIB}
    assert all(10 * SECOND <= run_ns(each) <= 20 * SECOND for each in containers)
    assert [each.arrival_ns for each in containers] == [number * 5 * SECOND for number in range(30)]
    gaps = [after.arrival_ns - before.arrival_ns for before, after in pairwise(made(poisson=True))]
    assert len(set(gaps)) == 29
    assert 2 * SECOND < sum(gaps) / 29 < 10 * SECOND


def test_memory_is_taken_in_equal_steps() -> None:
    (container,) = made(containers=1, sizes_bytes=(3 * MIB,), shortest_ns=9 * SECOND, longest_ns=9 * SECOND, steps=3)
    assert container.processes[0].steps == parse_phases("+1MiB 3s +1MiB 3s +1MiB 3s", [GPU.gpu])
    (odd,) = made(containers=1, sizes_bytes=(2,), steps=3)
    assert sum(step.size_bytes for step in odd.processes[0].steps if isinstance(step, Ask)) == 2


def test_guarantee_wait_priority_and_device() -> None:
    other = Device(GpuUuid("1"), "1", 10 * GIB)
    containers = made(devices=(GPU, other), guarantee_percent=25, wait_ns=7, priorities=3)
    assert {gpu for each in containers for gpu in each.quotas} == {GPU.gpu, other.gpu}
    assert all(quota.guarantee_bytes * 4 == quota.limit_bytes for each in containers for quota in each.quotas.values())
    assert {each.wait_ns for each in containers} == {7}
    assert {each.priority for each in containers} == {0, 1, 2}


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UsageError, match="shortest"):
        made(longest_ns=SECOND)


def test_the_paper_s_scenario_has_4_to_38_containers_of_mixed_sizes() -> None:
    workloads = list(paper.workloads(0))
    assert [len(workload.containers) for workload in workloads] == list(range(4, 39, 2))
    last = workloads[-1].containers
    assert all(workload.containers == last[: len(workload.containers)] for workload in workloads)
    assert {each.quotas[paper.GPU.gpu].limit_bytes // MIB for each in last} == {128, 256, 512, 1024, 2048, 4096}
