# SPDX-License-Identifier: Apache-2.0
"""Where calls were made: real stacks of real processes, told only while somebody wants them."""

from __future__ import annotations

import time

import pytest

from convgpu.sources.stacks import Stacks

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def stacks():
    stacks = Stacks()
    yield stacks
    stacks.close()


@pytest.fixture
def framed_program(compile_program):
    return compile_program("framed_program", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-fno-inline")


@pytest.fixture
def wanting(watcher):
    watcher.witness.want_stacks(60)
    yield watcher
    watcher.witness.want_stacks(0)


def names(stacks, event):
    stacks.look_at([(event.pid, event.stack)])
    return stacks.frames(event.pid, event.stack)


def test_each_event_tells_where_its_call_was_made(wanting, program, framed_program, stacks):
    child = program(framed_program)
    child.tell("runtime 3 2 4096")
    story = wanting.story(child.pid)
    assert len(story) == 10
    runtime = [event for event in story if event.source == "runtime"]
    for event in runtime:
        frames = names(stacks, event)
        assert frames[0].startswith("runtime_calls+0x")
        assert [frame.partition("+")[0] for frame in frames[:3]] == ["runtime_calls", "serve", "main"]
        assert frames[0].endswith(" (framed_program)")
    # The library keeps no frame pointers: where its call returns to is certain all the same.
    below = {event.kind: names(stacks, event)[0].partition("+")[0] for event in story if event.source == "driver"}
    assert below["alloc"] == "cudaMalloc"


def test_a_failed_call_has_its_stack_too(wanting, program, framed_program, stacks):
    child = program(framed_program)
    child.tell("fail 1")
    events = [event for event in wanting.story(child.pid) if event.source == "runtime"]
    assert [event.kind for event in events] == ["fail"]
    assert names(stacks, events[0])[0].startswith("serve+0x")


def test_threads_do_not_mix_up_their_stacks(wanting, program, framed_program, stacks):
    child = program(framed_program)
    child.tell("threads 7 53 47 4096")
    child.tell("runtime 11 0 4096")
    story = [event for event in wanting.story(child.pid) if event.source == "runtime"]
    assert len(story) == 7 * (53 + 47) + 11
    callers = [(event.tid == child.pid, names(stacks, event)[0].partition("+")[0]) for event in story]
    assert callers.count((False, "interleaved")) == 7 * 100
    assert callers.count((True, "runtime_calls")) == 11


def test_a_process_that_has_ended_still_has_its_calls_addresses(wanting, program, framed_program, stacks):
    parent = program(framed_program)
    pid = parent.tell("fork 2 0 4096")
    events = [event for event in wanting.story(pid) if event.source == "runtime"]
    assert len(events) == 2
    for event in events:
        assert event.stack
        assert names(stacks, event) == tuple(f"{address:#x} (process gone)" for address in event.stack)


def test_nobody_who_asks_costs_nothing_and_gets_none(watcher, program):
    child = program()
    child.tell("runtime 5 0 4096")
    assert {event.stack for event in watcher.story(child.pid)} == {()}
    watcher.witness.want_stacks(0.2)
    time.sleep(0.3)  # whoever wanted them has gone without a word
    child.tell("runtime 5 0 4096")
    assert {event.stack for event in watcher.story(child.pid)} == {()}


def test_stacks_that_do_not_fit_are_counted_and_their_events_told(small_witness, watch, program):
    watcher = watch(small_witness(CVG_STACK_PAGES=1))
    watcher.witness.want_stacks(60)
    child = program()
    child.tell("runtime 101 97 4096")
    story = watcher.story(child.pid)
    assert len(story) == 2 * (101 + 97)
    without = sum(event.stack == () for event in story)
    assert without > 300
    if not watcher.others():
        watcher.expect_losses(stacks_full=without)
    assert watcher.balance(child.pid).runtime_bytes == 4 * 4096
