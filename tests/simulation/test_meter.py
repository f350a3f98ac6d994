# SPDX-License-Identifier: Apache-2.0
"""The figures, each against a run small enough to be worked out by hand."""

from __future__ import annotations

import pytest
from small import GPU, SECOND, container, of, run, workload

from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.simulation.meter import jain_index
from convgpu.simulation.result import Settings
from convgpu.simulation.simulator import simulate
from convgpu.simulation.workload import Ask, End


def test_utilisation_is_memory_over_time_as_a_part_of_what_there_is() -> None:
    result = run(container("a", "+5GiB 10s +2GiB 10s", quotas={GPU: Quota(8 * GIB, 8 * GIB)}))
    (device,) = result.devices
    assert device.used == pytest.approx((5 * 10 + 7 * 10) / (20 * 10))
    assert device.assigned == pytest.approx(0.8)
    assert device.peak_used_bytes == 7 * GIB


def test_time_counts_from_the_first_arrival_to_the_last_end() -> None:
    result = run(container("a", "+5GiB 10s", arrival_s=100), container("b", "+5GiB 10s", arrival_s=110))
    assert result.summary.finish_s == 20
    assert result.devices[0].used == pytest.approx(0.5)


def three_in_a_row():
    """They run one after another and wait 0, 10 and 20 seconds."""
    return [container(name, "+8GiB 10s") for name in ("a", "b", "c")]


def test_mean_and_worst_suspended_time_and_turnaround_are_over_containers() -> None:
    summary = run(*three_in_a_row()).summary
    assert (summary.mean_suspended_s, summary.worst_suspended_s, summary.median_suspended_s) == (10, 20, 10)
    assert summary.mean_turnaround_s == 20


def test_percentiles_are_of_the_nearest_rank() -> None:
    summary = run(*[container(f"c{number:03}", "+8GiB 1s") for number in range(100)]).summary
    assert (summary.median_suspended_s, summary.p95_suspended_s, summary.p99_suspended_s) == (49, 94, 98)


def test_jain_s_index_is_over_normalised_progress() -> None:
    summary = run(*three_in_a_row()).summary
    assert summary.jain == pytest.approx((1 + 1 / 2 + 1 / 3) ** 2 / (3 * (1 + 1 / 4 + 1 / 9)), abs=1e-6)


@pytest.mark.parametrize(("shares", "index"), [([2, 2, 2], 1.0), ([1, 0, 0, 0], 0.25), ([], None), ([0.0], None)])
def test_jain_s_index_runs_from_one_nth_to_one(shares: list[float], index: float | None) -> None:
    assert jain_index(shares) == index


def test_containers_that_did_not_complete_count_in_no_mean() -> None:
    result = run(*three_in_a_row(), container("denied", "+9GiB 10s"))
    assert result.summary.mean_suspended_s == 10
    assert result.summary.failed == 1


def test_waits_at_the_same_time_count_once() -> None:
    steps = (Ask(0, GPU, 3 * GIB), Ask(0, GPU, 4 * GIB), End(0, (0, 1)))
    result = run(container("holder", "+8GiB 10s"), container("b", steps, arrival_s=4))
    assert of(result, "b").suspended_s == 6
    assert result.summary.suspensions == 2


def test_who_was_passed_over_and_how_often() -> None:
    big = container("big", "+8GiB 10s", arrival_s=1)
    small = [container(f"small{number}", "+2GiB 10s", arrival_s=2 + number) for number in range(3)]
    holder = container("holder", "+8GiB 20s -2GiB 5s")
    result = simulate(workload(holder, big, *small), Settings(algorithm="recent-use", max_bypass=0))
    assert result.summary.bypassed_worst >= 1
    assert run(*three_in_a_row()).summary.bypassed_worst == 0


def test_a_timeline_says_what_held_from_when_on() -> None:
    simulated = workload(container("a", "+6GiB 10s"), container("b", "+5GiB 10s", arrival_s=2))
    (line,) = simulate(simulated, Settings(algorithm="fifo"), keep_timeline=True).timelines
    entries = zip(line.at_ns, line.used_bytes, line.waiting, strict=True)
    assert [(at_ns // SECOND, used // GIB, waiting) for at_ns, used, waiting in entries] == [
        (0, 6, 0),
        (2, 6, 1),
        (10, 5, 0),
        (20, 0, 0),
    ]
