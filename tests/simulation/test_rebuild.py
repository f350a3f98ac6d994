# SPDX-License-Identifier: Apache-2.0
"""What a workload made of a recording does, and when."""

from __future__ import annotations

from logs import CONTAINER, GPU, SECOND, Log
from small import FIFO, of

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.simulation.rebuild import rebuild
from convgpu.simulation.recording import read_recording
from convgpu.simulation.result import Result
from convgpu.simulation.simulator import simulate
from convgpu.simulation.workload import (
    Ask,
    CapacityChange,
    Container,
    End,
    Outcome,
    QuotaChange,
    Release,
    Step,
    Withdraw,
    Workload,
)

DEVICE = GpuUuid("GPU-0")


def workload(log: Log) -> Workload:
    return rebuild(read_recording(log.lines, "log"), "log")


def only(log: Log) -> Container:
    (container,) = workload(log).containers
    return container


def steps(log: Log) -> tuple[Step, ...]:
    (process,) = only(log).processes
    return process.steps


def begun() -> Log:
    """A container seen at 1 s, whose process says hello at 3 s."""
    return Log().start().container(1).process(3)


def ended(log: Log, at_s: float) -> Log:
    return log.process(at_s, "process.gone", used_bytes=0).add(at_s + 2, "container.gone", container=CONTAINER)


def ask(delay_s: float, size_bytes: int, label: str, *after: int, outcome: Outcome = Outcome.GRANTED) -> Ask:
    return Ask(int(delay_s * SECOND), DEVICE, size_bytes, after, outcome=outcome, label=label)


def test_a_container_with_its_processes_and_times() -> None:
    container = only(ended(begun(), 10))
    assert (container.name, container.arrival_ns, container.created_ns) == ("alpha", SECOND, 5)
    assert (container.priority, container.quotas) == (2, {DEVICE: Quota(8 * GIB, 0)})
    assert container.end_delay_ns == 2 * SECOND
    (process,) = container.processes
    assert (process.delay_ns, process.steps) == (2 * SECOND, (End(7 * SECOND),))


def test_a_step_comes_so_long_after_the_answers_that_it_had() -> None:
    log = begun().decide(4, "granted", "1", GIB).decide(6, "suspended", "2", 2 * GIB)
    log.process(9, "process.seen", process={"pid": 8, "start_ticks": 1, "comm": None, "uid": 0}).reclaim(9.5, GIB)
    log.decide(20, "resumed", "2", 2 * GIB).reclaim(25, 2 * GIB)
    first, _ = only(ended(log, 30)).processes
    assert first.steps == (
        ask(1, GIB, "1"),
        ask(2, 2 * GIB, "2", 0),
        Release(int(5.5 * SECOND), DEVICE, GIB),  # another thread, or the daemon: it did not wait for the answer
        Release(int(15.5 * SECOND), DEVICE, 2 * GIB, (1,)),
        End(int(20.5 * SECOND)),
    )


def test_an_answer_counts_from_what_brought_it_about_not_from_when_it_was_written() -> None:
    log = begun().decide(4, "suspended", "1", GIB)
    log.add(10, "limit.set", container=CONTAINER, gpu=GPU, old_limit_bytes=1, limit_bytes=9 * GIB, guarantee_bytes=0)
    log.decide(10.5, "resumed", "1", GIB)
    assert steps(ended(log, 12))[-1] == End(2 * SECOND, (0,))


def test_a_wait_that_is_over_is_an_event_of_its_own() -> None:
    log = begun().decide(4, "suspended", "1", GIB).decide(9, "denied", "1", GIB, reason="wait_timeout")
    assert steps(ended(log, 10)) == (ask(1, GIB, "1", outcome=Outcome.DENIED), End(SECOND, (0,)))


def test_what_was_withdrawn_or_never_answered_holds_nobody_up() -> None:
    log = begun().decide(4, "suspended", "1", GIB).decide(5, "suspended", "2", 2 * GIB)
    log.process(6, "decision.withdrawn", request="1", size_bytes=GIB, gpu=GPU)
    assert steps(ended(log, 8)) == (
        ask(1, GIB, "1", outcome=Outcome.UNANSWERED),
        ask(2, 2 * GIB, "2", outcome=Outcome.UNANSWERED),
        Withdraw(3 * SECOND, 0),
        End(5 * SECOND),
    )


def test_processes_of_a_container_follow_each_other() -> None:
    log = begun().process(5, "process.gone", used_bytes=0)
    second = {"pid": 8, "start_ticks": 1, "comm": None, "uid": 0}
    log.process(6, process=second).process(9, "process.gone", process=second, used_bytes=0)
    first, after = only(log.add(9.5, "container.gone", container=CONTAINER)).processes
    assert (first.after, first.delay_ns) == (0, 2 * SECOND)
    assert (after.after, after.delay_ns) == (1, SECOND)


def test_what_still_runs_when_the_recording_ends_ends_there() -> None:
    log = begun().decide(4, "granted", "1", GIB).add(14, "daemon.stop")
    assert steps(log)[-1] == End(10 * SECOND, (0,))


def test_a_container_that_is_started_again_is_another_one() -> None:
    log = ended(begun(), 10).container(20).add(25, "container.gone", container=CONTAINER)
    assert [container.container_id for container in workload(log).containers] == ["c" * 64, "c" * 64 + "/2"]
    assert len({container.name for container in workload(log).containers}) == 1


def test_changes_of_limits_and_capacities_keep_their_times() -> None:
    log = begun()
    log.add(5, "limit.set", container=CONTAINER, gpu=GPU, old_limit_bytes=1, limit_bytes=9 * GIB, guarantee_bytes=GIB)
    log.add(7, "capacity.changed", gpu=GPU, old_capacity_bytes=1, capacity_bytes=9 * GIB, reason="others")
    made = workload(ended(log, 10))
    assert made.quota_changes == (QuotaChange(5 * SECOND, ContainerId("c" * 64), DEVICE, Quota(9 * GIB, GIB)),)
    assert made.capacity_changes == (CapacityChange(7 * SECOND, DEVICE, 9 * GIB),)


def test_a_start_that_waited_is_one_that_waits() -> None:
    log = Log().start().container(1, queued_ns=SECOND).add(6, "start.admitted", container=CONTAINER, waited_ns=1)
    container = only(ended(log.process(8), 10))
    assert (container.admit_wait, container.gives_up_ns, container.processes[0].delay_ns) == (True, None, 2 * SECOND)


def test_a_start_that_was_given_up_is_given_up_after_the_same_time() -> None:
    log = Log().start().container(1, queued_ns=SECOND)
    log.add(6, "container.gone", container=CONTAINER)
    log.add(6, "start.denied", container=CONTAINER, waited_ns=1, reason="container_gone")
    assert only(log).gives_up_ns == 5 * SECOND


def test_a_request_asked_again_of_the_next_daemon_is_the_one_asked_before() -> None:
    log = begun().decide(4, "suspended", "1", GIB).add(5, "daemon.stop").start(6)
    log.container(6.1, restored=True).process(6.2, used_bytes=0, gpu=GPU)
    log.decide(6.3, "suspended", "1", GIB, arrived_ns=4 * SECOND)
    log.add(9, "limit.set", container=CONTAINER, gpu=GPU, old_limit_bytes=1, limit_bytes=9 * GIB, guarantee_bytes=0)
    log.decide(9.5, "resumed", "1", GIB)
    assert steps(ended(log, 11)) == (
        ask(1, GIB, "1"),
        End(2 * SECOND, (0,)),
    )


def test_what_a_killed_daemon_did_not_write_is_made_up_for() -> None:
    log = begun().decide(4, "granted", "1", GIB).start(6)
    log.container(6.1, restored=True).process(6.2, used_bytes=3 * GIB, gpu=GPU)
    assert steps(ended(log, 11))[1] == Ask(
        int(2.2 * SECOND), DEVICE, 2 * GIB, (0,), outcome=Outcome.UNANSWERED, forced=True
    )
    less = begun().decide(4, "granted", "1", 3 * GIB).start(6)
    less.container(6.1, restored=True).process(6.2, used_bytes=GIB, gpu=GPU)
    assert steps(ended(less, 11))[1] == Release(int(2.2 * SECOND), DEVICE, 2 * GIB, (0,))


def test_what_a_restarted_daemon_did_not_find_had_ended_by_then() -> None:
    other = {"id": "d" * 64, "name": "beta", "image": None}
    log = begun().decide(4, "granted", "1", GIB).start(6).container(9, other)
    alpha, beta = workload(log).containers
    assert alpha.processes[0].steps[-1] == End(2 * SECOND, (0,))
    assert beta.arrival_ns == 9 * SECOND


def test_after_a_reboot_nothing_of_before_runs() -> None:
    log = begun().decide(4, "granted", "1", GIB)
    log.boot()
    log.start(10).container(11)
    assert [container.name for container in workload(log).containers] == ["alpha", "alpha"]


def test_a_log_that_begins_with_a_restart_says_what_was_held() -> None:
    log = Log().start().container(1, restored=True, assigned_bytes=4 * GIB, passed=2)
    log.process(2, used_bytes=3 * GIB, gpu=GPU).reclaim(5, 3 * GIB)
    container = only(ended(log, 6))
    assert container.carried is not None
    assert (container.carried[DEVICE].assigned_bytes, container.carried[DEVICE].passed) == (4 * GIB, 2)
    assert container.processes[0].adopted == {DEVICE: 3 * GIB}


def run(log: Log) -> Result:
    return simulate(workload(log), FIFO)


def test_a_recording_played_again_takes_as_long_as_it_took() -> None:
    log = begun().decide(4, "granted", "1", 6 * GIB).reclaim(9, 2 * GIB)
    result = run(ended(log, 12))
    alpha = of(result, "alpha")
    assert (alpha.outcome, alpha.arrived_s, alpha.ended_s, alpha.suspended_s) == ("completed", 0, 13, 0)
    assert result.devices[0].peak_used_bytes == 6 * GIB
    assert result.summary.deviations == 0
