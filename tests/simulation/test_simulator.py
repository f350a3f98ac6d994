# SPDX-License-Identifier: Apache-2.0
"""What happens to containers in virtual time. One device of 10 GiB unless a test says otherwise."""

from __future__ import annotations

import pytest
from small import FIFO, GPU, OTHER, SECOND, container, of, run, workload

from convgpu.core.decision import Denied, Granted, RequestDecision, Suspended
from convgpu.core.identity import ContainerId
from convgpu.core.ledger import Carried
from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.errors import UsageError
from convgpu.simulation.phases import parse_phases
from convgpu.simulation.result import ContainerResult, Settings
from convgpu.simulation.simulator import Simulation
from convgpu.simulation.workload import (
    Ask,
    Container,
    End,
    Outcome,
    Process,
    QuotaChange,
    Release,
    Withdraw,
    Workload,
)


def decisions(simulated: Workload, settings: Settings = FIFO) -> list[tuple[type[RequestDecision], str]]:
    seen: list[tuple[type[RequestDecision], str]] = []
    Simulation(simulated, settings, on_decision=lambda decision, label: seen.append((type(decision), label))).run()
    return seen


def test_a_container_that_never_waits_takes_as_long_as_its_phases() -> None:
    result = run(container("a", "5s +1GiB 10s +2GiB 20s -1GiB 5s", arrival_s=3))
    assert of(result, "a") == ContainerResult(name="a", outcome="completed", arrived_s=0, ended_s=40, suspended_s=0)
    assert result.summary.finish_s == 40


def test_a_wait_delays_all_that_comes_after_it_and_nothing_else() -> None:
    result = run(container("first", "+7GiB 30s"), container("second", "+6GiB 10s", arrival_s=5))
    assert of(result, "first").ended_s == 30
    assert of(result, "second") == ContainerResult(
        name="second", outcome="completed", arrived_s=5, ended_s=40, suspended_s=25
    )
    assert result.summary.suspensions == 1


def test_memory_that_is_freed_early_lets_others_go_on_early() -> None:
    second = container("second", "+6GiB 10s", arrival_s=5, quotas={GPU: Quota(6 * GIB, 0)})
    result = run(container("first", "+7GiB 10s -4GiB 20s"), second)
    assert of(result, "second").suspended_s == 5


def test_a_denied_request_ends_the_container_and_frees_what_it_held() -> None:
    greedy = container("greedy", "+6GiB 5s +3GiB 100s")
    result = run(greedy, container("next", "+8GiB 10s", arrival_s=1))
    assert of(result, "greedy").outcome == "failed"
    assert of(result, "greedy").ended_s == 5
    assert of(result, "next").suspended_s == 4
    assert result.summary.denials == {"limit": 1}
    assert (result.summary.completed, result.summary.failed) == (1, 1)


def test_a_request_waits_no_longer_than_the_container_says() -> None:
    result = run(container("first", "+7GiB 30s"), container("late", "+6GiB 10s", wait_ns=8 * SECOND))
    assert of(result, "late") == ContainerResult(name="late", outcome="failed", arrived_s=0, ended_s=8, suspended_s=8)
    assert result.summary.denials == {"wait_timeout": 1}


def test_a_limit_that_no_device_has_is_refused_and_counted() -> None:
    result = run(container("huge", "+1GiB 1s", quotas={GPU: Quota(11 * GIB, 0)}), container("a", "+1GiB 1s"))
    assert of(result, "huge").outcome == "refused"
    assert (result.summary.refused, result.summary.completed) == (1, 1)


def crossing() -> tuple[Container, Container]:
    """Both hold half and want the rest: the classic deadlock."""
    return container("a", "+5GiB 10s +3GiB 10s"), container("b", "+5GiB 10s +3GiB 10s")


def test_without_the_safety_rule_a_deadlock_is_found_and_named() -> None:
    result = run(*crossing(), settings=Settings(algorithm="fifo", safe=False))
    assert [each.outcome for each in result.containers] == ["stuck", "stuck"]
    assert (result.summary.finish_s, result.summary.stuck, result.summary.deadlock_since_s) == (None, 2, 10)


def test_with_the_safety_rule_the_same_containers_finish() -> None:
    result = run(*crossing())
    assert (result.summary.finish_s, result.summary.deadlock_since_s) == (40, None)


def test_two_devices_are_two_ledgers() -> None:
    on_other = container("b", "+8GiB@1 10s", quotas={OTHER: Quota(8 * GIB, 0)})
    result = run(container("a", "+8GiB@0 10s"), on_other, devices=2)
    assert result.summary.finish_s == 10
    assert [device.peak_used_bytes for device in result.devices] == [8 * GIB, 8 * GIB]


def test_a_start_may_wait_for_its_whole_guarantee() -> None:
    quotas = {GPU: Quota(6 * GIB, 6 * GIB)}
    pair = container("a", "+1GiB 10s", quotas=quotas), container("b", "+1GiB 10s", arrival_s=2, quotas=quotas)
    at_once = run(*pair)
    assert of(at_once, "b").ended_s == 12
    waiting = run(*pair, settings=Settings(algorithm="fifo", admit="wait"))
    assert of(waiting, "b") == ContainerResult(name="b", outcome="completed", arrived_s=2, ended_s=20, suspended_s=8)


def test_a_start_that_waits_too_long_fails() -> None:
    quotas = {GPU: Quota(6 * GIB, 6 * GIB)}
    late = container("b", "+1GiB 10s", quotas=quotas, wait_ns=3 * SECOND)
    result = run(container("a", "+1GiB 10s", quotas=quotas), late, settings=Settings(algorithm="fifo", admit="wait"))
    assert of(result, "b") == ContainerResult(name="b", outcome="failed", arrived_s=0, ended_s=3, suspended_s=3)


def test_a_raised_limit_lets_a_request_through_that_was_denied_before() -> None:
    steps = (
        Ask(5 * SECOND, GPU, 9 * GIB, outcome=Outcome.DENIED, label="too much"),
        Ask(5 * SECOND, GPU, 9 * GIB, (0,), label="again"),
        End(SECOND, (1,)),
    )
    raised = QuotaChange(7 * SECOND, ContainerId("a"), GPU, Quota(9 * GIB, 0))
    assert decisions(workload(container("a", steps), quota_changes=(raised,))) == [
        (Denied, "too much"),
        (Granted, "again"),
    ]


def test_a_change_for_a_container_that_is_not_there_is_a_deviation() -> None:
    late = QuotaChange(7 * SECOND, ContainerId("a"), GPU, Quota(9 * GIB, 0))
    assert run(container("a", "1s"), quota_changes=(late,)).summary.deviations == 1


# What recordings need beyond programs written by hand.


def test_a_thread_goes_on_while_another_waits() -> None:
    steps = (
        Ask(0, GPU, 5 * GIB, label="one"),
        Ask(2 * SECOND, GPU, GIB, label="two"),
        Release(3 * SECOND, GPU, GIB, (1,)),
        End(SECOND, (0,)),
    )
    result = run(container("a", "+6GiB 20s"), container("b", steps, arrival_s=1))
    assert of(result, "b").ended_s == 21
    assert of(result, "b").suspended_s == 19
    assert result.devices[0].peak_used_bytes == 7 * GIB


def test_a_request_that_was_denied_when_recorded_is_given_back_when_granted() -> None:
    steps = (Ask(0, GPU, 2 * GIB, outcome=Outcome.DENIED), Ask(SECOND, GPU, 8 * GIB, (0,)), End(SECOND, (1,)))
    result = run(container("a", steps))
    assert (result.summary.completed, result.summary.deviations) == (1, 1)


def test_a_process_ends_where_a_request_is_denied_that_was_granted_when_recorded() -> None:
    steps = (Ask(0, GPU, 4 * GIB, waitable=False), Ask(9 * SECOND, GPU, GIB, (0,)), End(0, (1,)))
    result = run(container("holder", "+7GiB 60s"), container("a", steps, arrival_s=1))
    assert of(result, "a").outcome == "failed"
    assert of(result, "a").ended_s == 1
    assert result.summary.denials == {"not_now": 1}


def test_a_request_is_withdrawn_only_while_it_waits() -> None:
    steps = (Ask(0, GPU, 5 * GIB, outcome=Outcome.UNANSWERED), Withdraw(4 * SECOND, 0), End(6 * SECOND))
    waiting = run(container("holder", "+7GiB 60s"), container("a", steps))
    assert of(waiting, "a").suspended_s == 4
    assert of(waiting, "a").ended_s == 6
    alone = run(container("a", steps))
    assert of(alone, "a").suspended_s == 0
    assert alone.devices[0].used == pytest.approx(0.5)


def test_processes_of_a_container_follow_each_other() -> None:
    one = Process(parse_phases("+2GiB 10s", [GPU]))
    two = Process(parse_phases("+7GiB 10s", [GPU]), after=1, delay_ns=3 * SECOND)
    result = run(container("a", processes=(one, two), end_delay_ns=SECOND), container("b", "+8GiB 5s", arrival_s=1))
    assert of(result, "a").ended_s == 24
    assert of(result, "b").suspended_s == 0


def test_processes_of_a_container_run_side_by_side() -> None:
    both = (Process(parse_phases("+2GiB 10s", [GPU])), Process(parse_phases("+3GiB 5s", [GPU]), delay_ns=SECOND))
    result = run(container("a", processes=both))
    assert of(result, "a").ended_s == 10
    assert result.devices[0].peak_used_bytes == 5 * GIB


def test_what_ran_before_the_first_arrival_holds_what_it_held() -> None:
    running = Process((Release(5 * SECOND, GPU, 6 * GIB), End(5 * SECOND)), adopted={GPU: 6 * GIB})
    old = container("old", processes=(running,), carried={GPU: Carried(7 * GIB)})
    result = run(old, container("new", "+5GiB 1s"))
    assert of(result, "new").suspended_s == 5
    assert result.devices[0].peak_used_bytes == 6 * GIB


def test_a_forced_request_is_recorded_whatever_the_limit() -> None:
    steps = (Ask(0, GPU, 9 * GIB, forced=True, label="taken"), End(SECOND, (0,)))
    assert decisions(workload(container("a", steps))) == [(Granted, "taken")]


def test_giving_back_more_than_was_taken_is_a_deviation_and_no_more() -> None:
    result = run(container("a", (Release(0, GPU, GIB), End(SECOND))))
    assert (result.summary.completed, result.summary.deviations) == (1, 1)


# Algorithms and repetition.


def test_the_algorithm_decides_who_is_next() -> None:
    pair = container("old", "+6GiB 10s", arrival_s=1), container("young", "+5GiB 10s", arrival_s=2)
    holder = container("holder", "+10GiB 20s", quotas={GPU: Quota(10 * GIB, 10 * GIB)})
    fifo, recent = (run(holder, *pair, settings=Settings(algorithm=name)) for name in ("fifo", "recent-use"))
    assert (of(fifo, "old").ended_s, of(fifo, "young").ended_s) == (30, 40)
    assert (of(recent, "old").ended_s, of(recent, "young").ended_s) == (40, 30)


def test_the_seed_decides_what_is_left_to_chance_and_repeats_it() -> None:
    many = [container(f"c{number}", "+8GiB 1s", arrival_s=number / 100) for number in range(12)]
    orders = [[seen[1] for seen in decided_by(many, seed) if seen[0] is Granted] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def decided_by(containers: list[Container], seed: int) -> list[tuple[type[RequestDecision], str]]:
    labelled = [
        container(each.name, (Ask(0, GPU, 8 * GIB, label=each.name), End(SECOND, (0,))), each.arrival_ns / SECOND)
        for each in containers
    ]
    return decisions(workload(*labelled), Settings(algorithm="random", seed=seed))


def test_an_unknown_algorithm_is_named() -> None:
    with pytest.raises(UsageError, match="'fifa'"):
        run(container("a", "1s"), settings=Settings(algorithm="fifa"))


def test_decisions_are_told_in_the_order_of_the_engine() -> None:
    first = (Ask(0, GPU, 7 * GIB, label="first"), End(5 * SECOND, (0,)))
    second = (Ask(0, GPU, 7 * GIB, label="second"), End(5 * SECOND, (0,)))
    assert decisions(workload(container("a", first), container("b", second, arrival_s=1))) == [
        (Granted, "first"),
        (Suspended, "second"),
        (Granted, "second"),
    ]
