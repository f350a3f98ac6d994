# SPDX-License-Identifier: Apache-2.0
"""Tables: what is left out, what is cut, what stays in sight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.snapshots import container_status, device_usage, sample_events, sample_snapshot
from convgpu.tui.columns import Column, heading_line, lay_out, row_line
from convgpu.tui.containers import container_rows
from convgpu.tui.glyphs import ASCII, BLOCKS
from convgpu.tui.panes import TablePane, stack
from convgpu.tui.state import Pane, State
from convgpu.tui.view import Scene, view

FIRST = Column[tuple[str, str]]("FIRST", 5, lambda row: row[0], widest=9, first=8)
SECOND = Column[tuple[str, str]]("SECOND", 6, lambda row: row[1], right=True)
COLUMNS = (FIRST, SECOND)


def table(rows, width):
    layout = lay_out(COLUMNS, COLUMNS, rows, width)
    return [heading_line(layout).plain, *(row_line(layout, row, "", BLOCKS).plain for row in rows)]


def test_a_column_that_does_not_fit_is_left_out_whole():
    assert table([("ab", "1")], 12) == ["FIRST SECOND", "ab         1"]
    assert table([("ab", "1")], 11) == ["FIRST", "ab   "]
    assert table([("abcdef", "1")], 5) == ["FIRST", "abcd…"]


def test_a_name_goes_before_a_less_important_column_up_to_a_width():
    assert table([("abcdefgh", "1")], 12) == ["FIRST   ", "abcdefgh"]
    assert table([("abcdefgh", "1")], 15) == ["FIRST    SECOND", "abcdefgh      1"]
    assert table([("abcdefghijk", "1")], 15) == ["FIRST    SECOND", "abcdefg…      1"]


def test_a_text_runs_on_into_columns_that_say_nothing_of_its_row():
    assert table([("abcdefghijklm", "")], 15)[1] == "abcdefghijklm  "
    assert table([("abcdefghijklm", "1")], 15)[1] == "abcdefg…      1"


@pytest.mark.parametrize(
    ("cursor", "shown", "said"),
    [
        (0, (0, 1, 2), "… 7 more things"),
        (1, (0, 1, 2), "… 7 more things"),
        (5, (4, 5, 6), "… 4 above, 3 below"),
        (9, (7, 8, 9), "… 7 above, 0 below"),
    ],
)
def test_the_cursor_is_always_in_sight(cursor, shown, said):
    pane = TablePane("things", COLUMNS, COLUMNS, [(str(n), "") for n in range(10)], lambda _: "", cursor=cursor)
    heading, *rows, last = [line.plain for line in pane.draw(30, 5, BLOCKS)]
    assert heading.split() == ["FIRST", "SECOND"]
    assert tuple(int(row) for row in rows) == shown
    assert last == said


def test_what_fits_is_shown_and_never_one_line_spent_on_one_more():
    pane = TablePane("things", COLUMNS, COLUMNS, [(str(n), "") for n in range(3)], lambda _: "")
    assert pane.draw(30, 4, ASCII)[-1].plain.strip() == "2"
    pane = replace(pane, rows=[(str(n), "") for n in range(4)])
    assert [line.plain.strip() for line in pane.draw(30, 4, ASCII)[1:]] == ["0", "1", "~ 2 more things"]


def test_events_take_what_is_left_over_and_give_way_to_containers():
    def lines(count, height, **choices):
        crowd = tuple(container_status(f"c{n}", device_usage(n * MIB, GIB)) for n in range(count))
        snapshot = replace(sample_snapshot(), containers=crowd, queue=())
        scene = Scene(state=State(**choices), events=sample_events() * 4, live=True)
        return view(snapshot, 80, height, scene=scene).plain.split("\n")

    def told(drawn):
        return sum(line.startswith("12:00:") for line in drawn)

    assert told(lines(1, 40)) == 20
    assert told(lines(60, 24)) == 3
    assert told(lines(60, 40, focus=Pane.EVENTS)) >= 12
    assert told(lines(60, 24, hidden=frozenset({Pane.EVENTS}))) == 0
    assert told(lines(3, 18)) == 0, "a low screen is for the containers"
    assert told(lines(3, 18, focus=Pane.EVENTS)) > 0


def test_optional_panes_go_before_containers_are_cramped():
    def nouns(height, containers, optional=("events", "groups")):
        wanted = {"GPUs": 2, "containers": containers, "groups": 6, "requests": 2, "events": 4}
        panes = [TablePane(noun, COLUMNS, COLUMNS, [(noun, "")] * rows, lambda _: "") for noun, rows in wanted.items()]
        drawn = stack(
            panes, 30, height, BLOCKS, apart=True, main="containers", optional=optional, expendable=("GPUs", "requests")
        )
        words = [line.plain.split()[0] for line in drawn if line.plain and not line.plain.startswith("FIRST")]
        assert len(drawn) <= height
        return [word for number, word in enumerate(words) if word in wanted and word not in words[:number]]

    assert nouns(40, 6) == ["GPUs", "containers", "groups", "requests", "events"]
    assert nouns(24, 6) == ["GPUs", "containers", "groups", "requests"]
    assert nouns(20, 6) == ["GPUs", "containers", "requests"]
    assert nouns(20, 60) == ["GPUs", "containers", "requests"]
    assert nouns(20, 60, optional=("groups",)) == ["GPUs", "containers", "requests", "events"]
    assert nouns(7, 60) == ["containers"]


def test_the_newest_events_are_shown_and_going_back_shows_the_ones_before():
    def last(scrolled):
        state = State(focus=Pane.EVENTS, scrolled={Pane.EVENTS: scrolled})
        scene = Scene(state=state, events=sample_events(), live=True)
        drawn = view(sample_snapshot(), 120, 30, scene=scene).plain.split("\n")
        return next(line for line in reversed(drawn) if line.startswith("12:00:"))

    assert "beta waits for 4GiB" in last(0)
    assert "gamma was denied" in last(1)
    assert "ConvGPU 0.1.0 starts" in last(99)


def test_the_cursor_reaches_from_edge_to_edge_and_leaves_bars_as_they_are():
    snapshot = replace(sample_snapshot(), containers=(container_status("Ω-宽-name", device_usage(GIB, 2 * GIB)),))
    drawn = view(snapshot, 120, 20, scene=Scene(live=True))
    line = next(line for line in drawn.split("\n") if line.plain.startswith("Ω"))
    marked = set()
    for span in line.spans:
        if span.style == "reverse":
            marked |= set(range(span.start, span.end))
    left = "".join(letter for number, letter in enumerate(line.plain) if number not in marked)
    assert line.cell_len == 120
    assert set(left) <= set("█▌▋▊░· ")
    assert "█" in left
    assert {0, len(line.plain) - 1} <= marked


def test_the_tree_keeps_the_cursor_on_its_container():
    rows = container_rows(sample_snapshot())
    state = State(tree=True, selected=rows[2].key)
    drawn = view(sample_snapshot(), 80, 40, scene=Scene(state=state, live=True))
    marked = next(line for line in drawn.split("\n") if any("reverse" in str(span.style) for span in line.spans))
    assert marked.plain.startswith("beta ")
