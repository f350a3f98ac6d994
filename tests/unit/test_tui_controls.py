# SPDX-License-Identifier: Apache-2.0
"""What keys do to the choices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.snapshots import container_status, device_usage, sample_snapshot
from convgpu.tui.containers import container_rows
from convgpu.tui.controls import SetLimit, Shown, press
from convgpu.tui.keys import INTERVALS_S, KEYS
from convgpu.tui.order import ORDERS
from convgpu.tui.state import Ask, Page, Pane, State
from convgpu.tui.view import cursor_of

ROWS = container_rows(sample_snapshot())
NAMES = [row.container.name for row in ROWS]


def after(state, *keys, rows=ROWS, **shown):
    """Press keys one after the other, and return what came of the last."""
    step = None
    for key in keys:
        given = {"page_lines": 10, "queue": 1, "events": 50, **shown}
        step = press(state, key, Shown(rows, cursor_of(rows, state), **given))
        state = step.state
    return step


def under_cursor(state, rows=ROWS):
    return rows[cursor_of(rows, state)].container.name


def test_the_cursor_moves_and_stops_at_both_ends():
    assert under_cursor(State()) == NAMES[0]
    assert under_cursor(after(State(), "down").state) == NAMES[1]
    assert under_cursor(after(State(), "j", "j", "down").state) == NAMES[2]
    assert under_cursor(after(State(), "end", "up").state) == NAMES[1]
    assert under_cursor(after(State(), "G", "g").state) == NAMES[0]
    assert under_cursor(after(State(), "pgdn").state) == NAMES[2]
    assert under_cursor(after(State(), "pgdn", "pgup").state) == NAMES[0]


def test_the_cursor_keeps_to_its_container_and_to_its_place_when_that_is_gone():
    state = after(State(), "down").state
    assert under_cursor(state, ROWS[::-1]) == NAMES[1]
    assert under_cursor(state, [ROWS[0], ROWS[2]]) == NAMES[2]
    assert under_cursor(state, ROWS[:1]) == NAMES[0]


def test_without_a_container_no_key_fails():
    for key in (name for each in KEYS for name in each.names):
        after(State(edit=True), key, rows=[])


def test_a_close_look_and_back():
    looking = after(State(), "down", "enter").state
    assert (looking.page, under_cursor(looking)) == (Page.DETAIL, NAMES[1])
    for key in ("esc", "backspace", "q"):
        step = after(looking, key)
        assert (step.state.page, step.quit) == (Page.MAIN, False)
    assert under_cursor(after(looking, "right").state) == NAMES[2]
    assert after(looking, "right").state.page is Page.DETAIL


def test_from_the_help_one_goes_back_to_where_one_was():
    looking = after(State(), "down", "enter", "?").state
    assert looking.page is Page.HELP
    for key in ("q", "esc", "?"):
        assert after(looking, key).state.page is Page.DETAIL
        assert after(State(), "?", key).state.page is Page.MAIN
    assert after(looking, "q", "q").state.page is Page.MAIN


def test_a_pane_in_focus_that_is_empty_by_now_holds_up_no_key():
    waiting = after(State(), "tab", queue=1).state
    assert waiting.focus is Pane.QUEUE
    assert under_cursor(after(waiting, "down", queue=0).state) == NAMES[1]


def test_a_page_scrolls_as_far_as_it_goes_and_the_next_container_begins_at_its_first_line():
    looking = after(State(), "enter").state
    state = after(looking, "pgdn", scroll_most=7).state
    assert state.scrolled[Page.DETAIL] == 7
    assert after(state, "up", scroll_most=7).state.scrolled[Page.DETAIL] == 6
    assert after(state, "right").state.scrolled[Page.DETAIL] == 0


def test_q_goes_back_and_then_leaves_and_ctrl_c_always_leaves():
    assert not after(State(), "?", "q").quit
    assert after(State(), "?", "q", "q").quit
    assert after(State(), "/", "ctrl-c").quit


def test_every_order_is_reached_and_the_list_is_round():
    state, seen = State(), []
    for _ in ORDERS:
        state = after(state, "s").state
        seen.append(state.sort)
    assert sorted(seen) == sorted(order.name for order in ORDERS)
    assert state.sort == State().sort
    assert after(State(), "S", "s").state.sort == State().sort
    assert after(State(), "r").state.reverse
    assert not after(State(), "r", "s").state.reverse


def test_intervals_have_a_shortest_and_a_longest():
    state = State(interval_s=1.0)
    assert after(state, "-").state.interval_s == 2.0
    assert after(state, "+").state.interval_s == 0.5
    assert after(state, *["+"] * 20).state.interval_s == INTERVALS_S[0]
    assert after(state, *["-"] * 20).state.interval_s == INTERVALS_S[-1]
    assert after(State(interval_s=3.0), "-").state.interval_s == 5.0


def test_panes_come_and_go_and_the_focus_goes_to_those_that_are_there():
    assert after(State(), "1", "2").state.hidden == {Pane.GPUS, Pane.QUEUE}
    assert after(State(), "1", "1").state.hidden == frozenset()
    focus = [after(State(), *["tab"] * times).state.focus for times in (1, 2, 3)]
    assert focus == [Pane.QUEUE, Pane.EVENTS, Pane.CONTAINERS]
    assert after(State(), "tab", queue=0).state.focus is Pane.EVENTS
    assert after(State(), "2", "3", "tab").state.focus is Pane.CONTAINERS


def test_the_pane_in_focus_scrolls_events_from_the_end():
    queue = after(State(), "tab", "down", "down", queue=5).state
    assert queue.scrolled[Pane.QUEUE] == 2
    assert under_cursor(queue) == NAMES[0]
    assert after(queue, "end", queue=5).state.scrolled[Pane.QUEUE] == 4
    events = after(State(), "tab", "tab", "up", "up", "up").state
    assert events.scrolled[Pane.EVENTS] == 3
    assert after(events, "end").state.scrolled[Pane.EVENTS] == 0


def test_a_filter_is_seen_while_it_is_typed_and_can_be_given_up():
    typing = after(State(), "/", "q", "space", "b", "backspace", "c").state
    assert (typing.filter, typing.prompt.ask) == ("q c", Ask.FILTER)
    assert after(typing, "enter").state == replace(typing, prompt=None)
    assert after(typing, "esc").state.filter == ""
    again = after(after(typing, "enter").state, "/", "ctrl-u", "x").state
    assert again.filter == "x"
    assert after(again, "esc").state.filter == "q c"
    assert after(after(again, "enter").state, "esc").state.filter == ""


def test_no_key_changes_a_limit_without_edit():
    step = after(State(), "l", "1", "G", "enter", "y")
    assert step.set_limit is None
    assert step.state.prompt is None


@pytest.mark.parametrize("answer", ["n", "esc", "enter", "q", "down"])
def test_a_limit_is_set_only_after_yes(answer):
    asked = after(State(edit=True), "down", "l", *"2GiB", "enter")
    assert asked.set_limit is None
    prompt = asked.state.prompt
    assert (prompt.ask, prompt.name, prompt.old_bytes, prompt.new_bytes) == (Ask.CONFIRM, "gamma", GIB, 2 * GIB)
    assert after(asked.state, answer).set_limit is None
    assert after(asked.state, answer).state.prompt.said == "The limit of gamma is as it was."
    confirmed = after(asked.state, "y")
    assert confirmed.set_limit == SetLimit(ROWS[1].container.container_id, "gamma", GIB, 2 * GIB)
    assert confirmed.state.prompt.ask is Ask.BUSY


def test_what_is_no_size_is_said_and_can_be_mended():
    wrong = after(State(edit=True), "l", *"2Gigs", "enter").state
    assert wrong.prompt.said.startswith("'2Gigs' is not a size")
    assert wrong.prompt.ask is Ask.LIMIT
    mended = after(wrong, "backspace", "backspace", "backspace").state
    assert (mended.prompt.typed, mended.prompt.said) == ("2G", "")
    assert after(mended, "esc").state.prompt is None


def test_the_largest_limit_is_the_one_that_is_named():
    wide = container_status("wide", device_usage(MIB, 2 * GIB), device_usage(MIB, 3 * GIB, uuid="GPU-1", index=1))
    rows = container_rows(replace(sample_snapshot(), containers=(wide,)))
    assert after(State(edit=True), "l", rows=rows).state.prompt.old_bytes == 3 * GIB


def test_what_has_no_limit_gets_none():
    bare = replace(container_status("bare", device_usage(None, None)), guarded=False)
    rows = container_rows(replace(sample_snapshot(), containers=(bare,)))
    prompt = after(State(edit=True), "l", rows=rows).state.prompt
    assert (prompt.ask, prompt.said) == (Ask.FAILED, "bare is not guarded by ConvGPU: it has no limit.")


def test_a_container_that_ended_while_it_was_looked_at_is_not_mistaken_for_another():
    looking = after(State(edit=True), "down", "enter").state
    prompt = after(looking, "l", rows=[ROWS[0], ROWS[2]]).state.prompt
    assert (prompt.ask, prompt.said) == (Ask.FAILED, "This container is not there any more.")


def test_an_answer_goes_with_the_next_key_which_does_what_it_always_does():
    done = after(State(edit=True), "l", *"2G", "enter", "n").state
    assert after(done, "down").state.prompt is None
    assert under_cursor(after(done, "down").state) == NAMES[1]
