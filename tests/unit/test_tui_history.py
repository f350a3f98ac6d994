# SPDX-License-Identifier: Apache-2.0
"""What was held a while ago, and how it is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from convgpu.core.units import GIB
from convgpu.testing.snapshots import GPU_UUID, container_status, device_usage, sample_snapshot
from convgpu.tui.braille import area, samples_across
from convgpu.tui.glyphs import ASCII, BLOCKS
from convgpu.tui.history import SAMPLES_KEPT, History

ALPHA = container_status("alpha").container_id


def holding(used, *names):
    containers = tuple(container_status(name, device_usage(used, 4 * GIB)) for name in names)
    return replace(sample_snapshot(), containers=containers)


def test_there_is_a_sample_for_each_snapshot_and_what_is_gone_is_forgotten():
    history = History()
    for second, used in enumerate((GIB, None, 2 * GIB)):
        history.take(holding(used, "alpha"), float(second))
    assert list(history.used_bytes(ALPHA, GPU_UUID)) == [GIB, None, 2 * GIB]
    assert list(history.used_bytes(None, GPU_UUID)) == [5632 * 1024**2] * 3
    assert [history.span_s(samples) for samples in (0, 1, 2, 3, 99)] == [0.0, 0.0, 1.0, 2.0, 2.0]
    assert History().span_s(0) == History().span_s(5) == 0.0
    history.take(holding(GIB, "beta"), 3.0)
    assert list(history.used_bytes(ALPHA, GPU_UUID)) == []


def test_no_more_is_kept_than_said_and_a_copy_stays_as_it_is():
    history = History()
    for second in range(SAMPLES_KEPT + 10):
        history.take(holding(second, "alpha"), float(second))
    assert len(history.used_bytes(ALPHA, GPU_UUID)) == SAMPLES_KEPT
    copy = history.copy()
    history.take(holding(7, "alpha"), 1e6)
    assert list(copy.used_bytes(ALPHA, GPU_UUID))[-1] == SAMPLES_KEPT + 9
    assert copy.span_s(2) == 1.0


@pytest.mark.parametrize(
    ("samples", "drawn"),
    [
        ((), "  "),
        ((4,), " ⢸"),
        ((1, 2, 3, 4), "⣠⣾"),
        ((0, 4, None, 4), "⢸⢸"),
        ((9, 9, 9, 9, 1, 1, 1, 1), "⣀⣀"),
        ((0.001, 0, 0, 99), "⡀⢸"),
    ],
)
def test_two_samples_share_a_cell_the_newest_at_the_right(samples, drawn):
    assert area(samples, 4, 2, 1, BLOCKS) == [drawn]


def test_more_lines_have_more_levels():
    assert area((4, 8), 8, 1, 2, BLOCKS) == ["⢸", "⣿"]
    assert area((1, 5, 10), 10, 3, 2, ASCII) == ["  @", ":@@"]


def test_plain_characters_have_one_sample_a_cell():
    assert area((0, 5, 10), 10, 4, 1, ASCII) == ["  =@"]
    assert (samples_across(4, ASCII), samples_across(4, BLOCKS)) == (4, 8)


@given(
    samples=st.lists(st.none() | st.integers(0, 2**50), max_size=40),
    whole=st.none() | st.integers(0, 2**50),
    width=st.integers(0, 30),
    height=st.integers(0, 6),
    glyphs=st.sampled_from([ASCII, BLOCKS]),
)
def test_an_area_has_the_size_that_was_asked_for_and_shows_something_that_is_there(
    samples, whole, width, height, glyphs
):
    drawn = area(samples, whole, width, height, glyphs)
    assert [cell_len(line) for line in drawn] == [width] * height
    if width and height and whole and samples and samples[-1]:
        assert drawn[-1][-1] != " "
