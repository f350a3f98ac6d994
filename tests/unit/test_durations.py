# SPDX-License-Identifier: Apache-2.0
"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.core.durations import ACCEPTED_FORMS, format_duration, parse_duration
from convgpu.errors import UsageError

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("30s", 30 * SECOND_NS),
        ("5m", 300 * SECOND_NS),
        ("1h", 3600 * SECOND_NS),
        ("1h30m", 5400 * SECOND_NS),
        ("1.5h", 5400 * SECOND_NS),
        ("500ms", SECOND_NS // 2),
        ("90", 90 * SECOND_NS),
        ("0.25", SECOND_NS // 4),
        (" 2M ", 120 * SECOND_NS),
        ("0", 0),
        ("none", None),
        ("None", None),
    ],
)
def test_accepted_forms(text, duration_ns):
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize("text", ["", "s", "5x", "-5s", "5 s", "1h30", "5s!", "forever", "1..5s", "٣s", "9" * 30])
def test_anything_else_is_refused_with_the_accepted_forms(text):
    with pytest.raises(UsageError) as refused:
        parse_duration(text)
    assert ACCEPTED_FORMS in refused.value.message


@given(st.none() | st.integers(min_value=0, max_value=2**63 - 1))
def test_what_is_written_is_read_back(duration_ns):
    assert parse_duration(format_duration(duration_ns)) == duration_ns


def test_the_largest_unit_is_written():
    assert [format_duration(n * SECOND_NS) for n in (7200, 90, 0)] == ["2h", "90s", "0s"]
