# SPDX-License-Identifier: Apache-2.0
"""What programs ask of libcudart and what libcuda is asked: exact, apart, and only what succeeded."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.root, pytest.mark.bpf]

KIB_3 = 3 * 1024 + 1


def test_both_layers_are_counted_exactly_and_never_summed(watcher, program):
    child = program()
    child.tell(f"runtime 97 89 {KIB_3}")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_allocations, balance.runtime_frees, balance.runtime_failures) == (97, 89, 0)
    assert (balance.driver_allocations, balance.driver_frees, balance.driver_failures) == (97, 89, 0)
    assert balance.runtime_bytes == balance.driver_bytes == 8 * KIB_3
    assert (balance.physical_bytes, balance.allocations, balance.frees) == (0, 0, 0)
    watcher.expect_losses()


def test_a_call_of_the_driver_alone_does_not_touch_the_runtime(watcher, program):
    child = program()
    child.tell(f"driver 101 71 {KIB_3}")
    balance = watcher.balance(child.pid)
    assert (balance.driver_allocations, balance.driver_frees, balance.driver_bytes) == (101, 71, 30 * KIB_3)
    assert (balance.runtime_allocations, balance.runtime_frees, balance.runtime_bytes) == (0, 0, 0)


def test_a_failed_allocation_is_a_failure_and_nothing_else(watcher, program):
    child = program()
    child.tell("fail 13")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_failures, balance.driver_failures) == (13, 13)
    assert (balance.runtime_allocations, balance.runtime_bytes, balance.driver_bytes) == (0, 0, 0)
    failures = [event for event in watcher.story(child.pid) if event.kind == "fail"]
    assert [event.size_bytes for event in failures] == [1 << 50] * 26
    watcher.expect_losses()


def test_empty_allocations_null_and_failed_frees_change_nothing(watcher, program):
    child = program()
    child.tell("runtime 3 0 4096")
    before = watcher.balance(child.pid)
    child.tell("nothing")
    assert watcher.balance(child.pid) == before
    watcher.expect_losses()


def test_a_free_that_failed_leaves_alive_what_it_named(watcher, program):
    child = program()
    child.tell("refused-free 101 0 4099")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_bytes, balance.driver_bytes) == (101 * 4099, 101 * 4099)
    assert (balance.runtime_frees, balance.driver_frees) == (0, 0)
    child.tell("refused-free 13 11 4099")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_bytes, balance.driver_bytes) == (103 * 4099, 103 * 4099)
    assert (balance.runtime_frees, balance.driver_frees) == (11, 11)
    watcher.expect_losses()


def test_an_unknown_free_is_counted_and_takes_nothing(watcher, program):
    child = program()
    child.tell("runtime 2 0 4096")
    child.tell("unknown-free 7")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_bytes, balance.runtime_frees) == (8192, 0)
    watcher.expect_losses(unknown_free=14)  # 7 on each layer


def test_an_address_that_comes_again_settles_the_free_that_was_missed(watcher, program):
    child = program()
    child.tell("missed-free 4096")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_allocations, balance.runtime_frees, balance.runtime_bytes) == (2, 1, 4096)
    watcher.expect_losses(missed_free=2)


def test_64_threads_that_pass_addresses_to_each_other_stay_exact(watcher, program):
    child = program()
    child.tell("threads 64 499 491 4099")
    balance = watcher.balance(child.pid)
    assert (balance.runtime_allocations, balance.runtime_frees) == (64 * 499, 64 * 491)
    assert (balance.driver_allocations, balance.driver_frees) == (64 * 499, 64 * 491)
    assert balance.runtime_bytes == balance.driver_bytes == 64 * 8 * 4099
    assert not watcher.losses().keys() & {"calls_full", "live_full", "unknown_free", "missed_free"}


def test_events_tell_size_caller_and_duration(watcher, program):
    child = program()
    child.tell("runtime 2 1 5000")
    story = watcher.story(child.pid)
    assert [(event.source, event.kind) for event in story] == [
        ("driver", "alloc"),
        ("runtime", "alloc"),
        ("driver", "alloc"),
        ("runtime", "alloc"),
        ("driver", "free"),
        ("runtime", "free"),
    ]
    assert {event.size_bytes for event in story} == {5000}
    assert {event.comm for event in story} == {"shared_program"}
    assert {event.tid for event in story} == {child.pid}
    assert all(0 < event.latency_ns < 1_000_000_000 for event in story)
    assert [event.mono_ns for event in story] == sorted(event.mono_ns for event in story)


def test_a_forked_child_has_an_account_of_its_own(watcher, program):
    parent = program()
    parent.tell("runtime 5 0 4096")
    child_pid = parent.tell("fork 7 3 8192")
    assert watcher.balance(parent.pid).runtime_bytes == 5 * 4096
    child = watcher.balance(child_pid)
    assert (child.runtime_allocations, child.runtime_frees, child.runtime_bytes) == (7, 3, 4 * 8192)
