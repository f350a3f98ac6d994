# SPDX-License-Identifier: Apache-2.0
"""Sorting and filtering."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convgpu.core.status import FindingStatus, ProcessStatus
from convgpu.core.units import GIB, MIB
from convgpu.testing.snapshots import GPU_UUID, container_status, device_usage, sample_snapshot
from convgpu.tui.containers import SHOWN, STATES, container_rows
from convgpu.tui.order import ORDERS, arrange
from convgpu.tui.state import State

TRAIN = ProcessStatus(pid=7, comm="Train", used_bytes=GIB)
FOUND = FindingStatus(kind="bypass", uuid=GPU_UUID, reason="so", pids=(), since="now", action="log")
ROWS = container_rows(
    replace(
        sample_snapshot(),
        containers=(
            container_status("Beta", device_usage(GIB, 4 * GIB, denied=2, processes=(TRAIN,))),
            container_status("unknown", device_usage(None, None)),
            container_status("alpha", device_usage(2 * GIB, 16 * GIB, peak_bytes=9 * GIB, index=1)),
            replace(container_status("found", device_usage(512 * MIB, GIB, waiting=3)), findings=(FOUND,)),
            container_status("idle", image="other/image", state="exited"),
        ),
    )
)


def order(**choices):
    return [row.container.name for row in arrange(ROWS, State(**choices))]


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("created", ["Beta", "unknown", "alpha", "found", "idle"]),
        ("name", ["alpha", "Beta", "found", "idle", "unknown"]),
        ("gpu", ["Beta", "unknown", "found", "alpha", "idle"]),
        ("usage", ["alpha", "Beta", "found", "unknown", "idle"]),
        ("percent", ["found", "Beta", "alpha", "unknown", "idle"]),
        ("peak", ["alpha", "Beta", "found", "unknown", "idle"]),
        ("procs", ["Beta", "unknown", "alpha", "found", "idle"]),
        ("wait", ["found", "Beta", "unknown", "alpha", "idle"]),
        ("denied", ["Beta", "unknown", "alpha", "found", "idle"]),
        ("state", ["found", "Beta", "unknown", "alpha", "idle"]),
    ],
)
def test_each_order_has_the_largest_or_gravest_first_and_what_is_not_known_last(sort, names):
    assert order(sort=sort) == names


def test_every_order_is_tested_and_belongs_to_a_column():
    headings = {column.heading for column in SHOWN} | {""}
    assert {each.heading for each in ORDERS} <= headings


def test_turned_around_what_is_not_known_stays_last():
    assert order(sort="usage", reverse=True) == ["found", "Beta", "alpha", "unknown", "idle"]
    assert order(reverse=True) == ["idle", "found", "alpha", "unknown", "Beta"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("ALPHA", ["alpha"]),
        ("train", ["Beta"]),
        ("other", ["idle"]),
        ("exited", ["idle"]),
        ("bypass", ["found"]),
        ("story bet", ["Beta"]),
        ("bet exited", []),
        (container_status("idle").container_id[:8], ["idle"]),
    ],
)
def test_a_filter_is_words_that_are_all_to_be_found(words, names):
    assert order(filter=words) == names


def test_the_gravest_state_is_first_in_the_table_of_states():
    assert next(iter(STATES)) == "tampered"
    assert list(STATES)[-1] == "running"
