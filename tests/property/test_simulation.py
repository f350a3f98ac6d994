# SPDX-License-Identifier: Apache-2.0
"""Whatever the workload: with the safety rule all containers come to an end, twice the same way."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convgpu.core.algorithms import OWN_ALGORITHMS
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.simulation.generator import Shape, generate
from convgpu.simulation.phases import Phases
from convgpu.simulation.result import Settings
from convgpu.simulation.simulator import Simulation, simulate
from convgpu.simulation.workload import Container, Device, Process, Workload

SECOND = 1_000_000_000
DEVICES = tuple(Device(GpuUuid(str(number)), str(number), 10) for number in range(2))


@st.composite
def containers(draw: st.DrawFn, number: int) -> Container:
    gpus = draw(st.lists(st.sampled_from(DEVICES), min_size=1, max_size=2, unique=True))
    quotas = {}
    for device in gpus:
        limit = draw(st.integers(1, 11))
        quotas[device.gpu] = Quota(limit, draw(st.integers(0, limit)))
    phases = Phases()
    held = dict.fromkeys(quotas, 0)
    for _ in range(draw(st.integers(0, 5))):
        gpu = draw(st.sampled_from(sorted(held)))
        if held[gpu] and draw(st.booleans()):
            size = draw(st.integers(1, held[gpu]))
            held[gpu] -= size
            phases.free(gpu, size)
        else:
            size = draw(st.integers(1, 6))
            held[gpu] += size
            phases.allocate(gpu, size)
        phases.run(draw(st.integers(0, 3)))
    arrival = draw(st.integers(0, 5))
    return Container(
        ContainerId(f"c{number}"),
        f"c{number}",
        arrival,
        arrival,
        quotas,
        (Process(phases.end()),),
        priority=draw(st.integers(0, 1)),
        wait_ns=draw(st.none() | st.integers(0, 9)),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    count = draw(st.integers(1, 6))
    return Workload("any", DEVICES, tuple(draw(containers(number)) for number in range(count)))


@settings(max_examples=300, deadline=None)
@given(
    workloads(),
    st.sampled_from(sorted(OWN_ALGORITHMS)),
    st.sampled_from([0, 1, 64]),
    st.sampled_from(["part", "wait"]),
)
def test_everybody_comes_to_an_end_twice_the_same_way(
    workload: Workload, algorithm: str, max_bypass: int, admit: str
) -> None:
    setting = Settings(algorithm=algorithm, max_bypass=max_bypass, admit="wait" if admit == "wait" else "part")
    run = Simulation(workload, setting)
    result = run.run()
    assert result.summary.stuck == 0
    assert result == simulate(workload, setting)
    run._engine.check()
    assert [run._engine.free_bytes(device.gpu) for device in DEVICES] == [10, 10]
    assert all(device.peak_used_bytes <= 10 for device in result.devices)
    assert not run._meter._gauges[DEVICES[0].gpu].queue


@settings(max_examples=100, deadline=None)
@given(workloads(), st.sampled_from(sorted(OWN_ALGORITHMS)))
def test_a_container_that_is_alone_never_waits(workload: Workload, algorithm: str) -> None:
    for container in workload.containers:
        result = simulate(replace(workload, containers=(container,)), Settings(algorithm=algorithm))
        assert result.containers[0].suspended_s == 0
        assert not {"not_now", "wait_timeout"} & result.summary.denials.keys()


@pytest.mark.parametrize("algorithm", ["fifo", "best-fit"])
def test_simulation_time(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The target is 100,000 containers in 60 s; a fifth of them in 60 s leaves room for a busy machine."""
    shape = Shape(
        containers=20_000,
        sizes_bytes=(2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB),
        interval_ns=20 * SECOND,
        poisson=True,
        shortest_ns=30 * SECOND,
        longest_ns=300 * SECOND,
    )
    workload = generate(shape, [Device(GpuUuid("0"), "0", 80 * GIB)], seed=1)
    before_s = time.perf_counter()
    result = simulate(workload, Settings(algorithm=algorithm))
    took_s = time.perf_counter() - before_s
    with capsys.disabled():
        print(f"\n{algorithm}: 20,000 containers, {result.summary.suspensions} waits, {took_s:.1f} s")
    assert result.summary.completed == 20_000
    assert took_s < 60
