# SPDX-License-Identifier: Apache-2.0
"""Figures that fit their columns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.core.units import GIB, KIB, MIB, TIB
from convgpu.tui import figures
from convgpu.tui.glyphs import ASCII, BLOCKS, bar


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "N/A"),
        (0, "0B"),
        (999, "999B"),
        (1023, "1.00KiB"),
        (512 * MIB, "512MiB"),
        (999 * MIB, "999MiB"),
        (1000 * MIB, "0.98GiB"),
        (4 * GIB, "4.00GiB"),
        (10 * GIB + GIB // 2, "10.5GiB"),
        (141 * GIB, "141GiB"),
        (2 * TIB, "2.00TiB"),
        (10 * KIB - 1, "10.0KiB"),
    ],
)
def test_sizes(size_bytes, text):
    assert figures.size(size_bytes) == text


@given(st.none() | st.integers(-(2**63), 2**63))
def test_a_size_never_leaves_its_column(size_bytes):
    assert len(figures.size(size_bytes)) <= figures.SIZE_WIDTH


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 3, "33%"),
        (999, 1000, "99%"),
        (3, 3, "100%"),
        (9, 4, "225%"),
        (10**6, 1, ">999%"),
        (None, 1, "N/A"),
        (1, 0, "N/A"),
    ],
)
def test_percentages_are_rounded_down(part, whole, text):
    assert figures.percent(part, whole) == text


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0s"), (340, "340ms"), (12_340, "12.3s"), (307_000, "5m07s"), (12_000_000, "3h20m"), (187_200_000, "2d04h")],
)
def test_durations(duration_ms, text):
    assert figures.duration(duration_ms) == text


@pytest.mark.parametrize(
    ("used", "assigned", "drawn"),
    [
        (0, 0, "····"),
        (1, 0, "▏···"),
        (50, 50, "██··"),
        (50, 100, "██░░"),
        (100, 100, "████"),
        (300, 100, "████"),
        (None, None, "····"),
    ],
)
def test_a_bar_shows_used_and_set_aside(used, assigned, drawn):
    assert bar(used, assigned, 100, 4, BLOCKS, "").plain == drawn


@given(
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(0, 2**40),
    st.integers(0, 50),
)
def test_a_bar_is_as_wide_as_it_should_be(used, assigned, whole, width):
    for glyphs in (BLOCKS, ASCII):
        assert bar(used, assigned, whole, width, glyphs, "").cell_len == width


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [(4 * GIB, "4GiB"), (3500 * MIB, "3500MiB"), (GIB + 1, "1073741825B"), (0, "0B"), (None, "N/A")],
)
def test_an_exact_size_is_never_rounded(size_bytes, written):
    assert figures.exact(size_bytes) == written
