# SPDX-License-Identifier: Apache-2.0
"""Many events, many processes, numbers that come again: balances stay exact, and nothing stays behind."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.bpf]

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def test_a_flood_is_told_in_part_counted_and_never_in_the_way_of_others(watcher, program):
    noisy, quiet = program(), program()
    noisy.tell("driver 20011 20011 4096")
    quiet.tell("runtime 7 5 4096")
    balance = watcher.balance(noisy.pid)
    assert (balance.driver_allocations, balance.driver_frees, balance.driver_bytes) == (20011, 20011, 0)
    told = len(watcher.story(noisy.pid))
    losses = watcher.losses()
    assert told + losses["suppressed"] == 2 * 20011
    assert "ring_full" not in losses
    assert [event.kind for event in watcher.story(quiet.pid) if event.source == "runtime"] == ["alloc"] * 7 + [
        "free"
    ] * 5


def test_large_allocations_and_failures_are_told_through_a_flood(watcher, program):
    child = program()
    child.tell("driver 2503 2503 4096")
    child.tell(f"driver 3 0 {64 << 20}")
    child.tell("fail 5")
    story = watcher.story(child.pid)
    assert len([event for event in story if event.size_bytes == 64 << 20]) == 3
    assert len([event for event in story if event.kind == "fail"]) == 10


def test_ten_thousand_short_lived_processes_leave_nothing_behind(watcher, program, until):
    parent = program()
    pids, forgotten = [], set()

    def forget():
        ended = {event.pid for event in watcher.witness.drain() if event.kind == "exit"} & set(pids) - forgotten
        watcher.witness.forget_many(ended)
        forgotten.update(ended)
        return len(forgotten) >= len(set(pids))

    for count in range(10_000):
        pids.append(parent.tell(f"fork 3 {count % 2} 4096"))
        if count % 997 == 0:
            forget()
    until(forget, "all exit events")
    assert watcher.entries(*pids) == {}
    assert not watcher.losses().keys() & {"balances_full", "live_full", "calls_full", "ring_full"}


def test_a_number_that_comes_again_begins_with_nothing(watcher, program):
    """The first process is not forgotten yet when another one has its pid."""
    parent = program()
    first = parent.tell("fork 11 0 4096")
    assert watcher.balance(first).runtime_bytes == 11 * 4096
    for _ in range(200):
        try:
            LAST_PID.write_text(str(first - 1))
        except OSError as error:
            pytest.skip(f"pids cannot be chosen here: {error}")
        again = parent.tell("fork 5 2 8192")
        if again == first:
            break
    else:
        pytest.skip("other processes took the number each time")
    balance = watcher.balance(first)
    assert balance.runtime_bytes == balance.driver_bytes == 3 * 8192
    assert (balance.runtime_allocations - balance.runtime_frees) == 3


def test_two_processes_of_one_number_are_both_told_and_the_second_is_not_forgotten(watcher, program, until):
    parent = program()
    first = parent.tell("fork 1 0 4096")
    until(lambda: watcher.exits(first), "the first exit")
    child = None
    for _ in range(200):
        try:
            LAST_PID.write_text(str(first - 1))
        except OSError as error:
            pytest.skip(f"pids cannot be chosen here: {error}")
        child = program()
        if child.pid == first:
            break
    else:
        pytest.skip("other processes took the number each time")
    child.tell("runtime 3 0 4096")
    watcher.witness.forget(first)  # of the first: a daemon that comes late with it
    assert watcher.balance(first).runtime_bytes == 3 * 4096
    child.kill()
    until(lambda: len(watcher.exits(first)) == 2, "the second exit")


def test_threads_and_processes_at_once_stay_exact(watcher, program):
    children = [program() for _ in range(5)]
    for child in children:
        child.send("threads 13 499 491 4099")
    for child in children:
        assert child.process.stdout.readline() == "0\n"
        balance = watcher.balance(child.pid)
        assert (balance.runtime_allocations, balance.runtime_frees) == (13 * 499, 13 * 491)
        assert balance.runtime_bytes == balance.driver_bytes == 13 * 8 * 4099
    assert not watcher.losses().keys() & {"calls_full", "live_full", "unknown_free", "missed_free"}


def test_the_daemon_s_side_of_a_flood_costs_little(watcher, program):
    child = program()
    times = os.times()
    child.send("time 200003")
    told = 0
    while not _has_answered(child):
        told += len(watcher.witness.drain())
        watcher.witness.balances()
    spent = os.times()
    balance = watcher.balance(child.pid)
    assert (balance.driver_allocations, balance.driver_frees, balance.driver_bytes) == (200003, 200003, 0)
    seconds = spent.elapsed - times.elapsed
    assert (spent.user + spent.system - times.user - times.system) < 0.6 * seconds
    assert told <= 4096 * (seconds + 2)


def _has_answered(child):
    return bool(select.select([child.process.stdout], [], [], 0.2)[0])
