# SPDX-License-Identifier: Apache-2.0
"""Groups on the screen: there only where there are any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convgpu.core.status import GroupStatus, GroupUsage
from convgpu.core.units import GIB
from convgpu.testing.snapshots import GPU_UUID, sample_snapshot
from convgpu.tui.containers import container_rows
from convgpu.tui.groups import group_rows
from convgpu.tui.order import arrange
from convgpu.tui.state import Page, Pane, State
from convgpu.tui.view import Scene, view


def usage(**changes):
    figures = {"limit_bytes": 8 * GIB, "source": "command", "assigned_bytes": 6 * GIB, "used_bytes": 5 * GIB}
    return GroupUsage(uuid=GPU_UUID, index=0, **{**figures, "waiting": 0, "over": False, **changes})


def with_groups(*groups, members=("lab", "lab/team", None)):
    containers = tuple(
        replace(each, group=group) for each, group in zip(sample_snapshot().containers, members, strict=True)
    )
    return replace(sample_snapshot(), containers=containers, groups=groups)


def lines(snapshot, width=100, **choices):
    return view(snapshot, width, 40, scene=Scene(state=State(**choices), live=True)).plain.split("\n")


LAB = GroupStatus(name="lab", containers=("alpha", "gamma"), devices=(usage(),))


def test_without_groups_nothing_speaks_of_them():
    assert not any("GROUP" in line for line in lines(sample_snapshot()))


def test_a_group_has_a_row_and_its_containers_say_which_it_is():
    drawn = lines(with_groups(LAB), 120)
    heading = next(number for number, line in enumerate(drawn) if line.startswith("GROUP"))
    assert drawn[heading + 1].split()[:5] == ["lab", "0", "5.00GiB", "6.00GiB", "8.00GiB"]
    assert drawn[heading + 1].split()[-2:] == ["running", "command"]
    gamma = next(line for line in drawn if line.startswith("gamma"))
    assert "lab/team" in gamma


def test_a_key_hides_them():
    assert not any(line.startswith("GROUP") for line in lines(with_groups(LAB), hidden=frozenset({Pane.GROUPS})))


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"waiting": 2}, "suspended"),
        ({"assigned_bytes": 8 * GIB, "waiting": 2}, "full"),
        ({"assigned_bytes": 9 * GIB, "over": True}, "over"),
        ({"limit_bytes": None, "source": None}, "running"),
    ],
)
def test_the_gravest_that_is_to_be_said_of_a_group_is_a_word(changes, state):
    (row,) = group_rows(with_groups(GroupStatus(name="lab", containers=(), devices=(usage(**changes),))))
    assert row.state == state


def test_a_group_that_bounds_and_has_nothing_somewhere_has_no_row_there():
    idle = usage(limit_bytes=None, source=None, assigned_bytes=0, used_bytes=0)
    assert group_rows(with_groups(GroupStatus(name="lab", containers=(), devices=(idle,)))) == []


def test_containers_are_sorted_and_found_by_their_group():
    rows = container_rows(with_groups(LAB, members=("z", None, "a")))
    assert [row.container.group for row in arrange(rows, State(sort="group"))] == ["a", "z", None]
    assert [row.container.group for row in arrange(rows, State(filter="z"))] == ["z"]


@pytest.mark.parametrize("width", [1, 7, 20, 40, 80, 133, 300])
@pytest.mark.parametrize("height", [1, 5, 10, 24, 60])
def test_every_size_is_kept(width, height):
    many = tuple(replace(LAB, name=f"lab/{number}") for number in range(12))
    drawn = view(with_groups(*many), width, height, scene=Scene(live=True)).plain.split("\n")
    assert len(drawn) == height
    assert all(len(line) <= width for line in drawn)


def test_the_close_look_says_which_group_it_is():
    snapshot = with_groups(LAB)
    key = container_rows(snapshot)[0].key
    drawn = lines(snapshot, page=Page.DETAIL, selected=key)
    assert any(line.startswith("alpha") and "group lab" in line for line in drawn)
