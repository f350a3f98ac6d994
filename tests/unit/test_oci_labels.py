# SPDX-License-Identifier: Apache-2.0
"""Labels: what a container says it may hold."""

from __future__ import annotations

import pytest

from convgpu.core.units import GIB
from convgpu.errors import UsageError
from convgpu.oci.labels import LabelSettings, parse_labels


def test_all_labels():
    settings = parse_labels(
        {
            "convgpu.limit": "4GiB",
            "convgpu.guarantee": "1073741824",
            "convgpu.wait": "30s",
            "convgpu.priority": "-5",
            "convgpu.admit": "wait",
            "maintainer": "somebody",
        }
    )
    assert settings == LabelSettings(
        limit_bytes=4 * GIB, guarantee_bytes=GIB, wait_ns=30_000_000_000, priority=-5, admit_wait=True
    )


def test_no_label_leaves_everything_to_the_daemon():
    assert parse_labels({"other": "1"}) == LabelSettings()


def test_nothing_may_be_guaranteed():
    assert parse_labels({"convgpu.guarantee": "0"}).guarantee_bytes == 0


def test_wait_none_is_no_end_and_wait_zero_is_no_waiting():
    assert parse_labels({"convgpu.wait": "none"}).wait_ns is None
    assert parse_labels({"convgpu.wait": "0"}).wait_ns == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("convgpu.limit", "much"),
        ("convgpu.limit", "0"),
        ("convgpu.limit", ""),
        ("convgpu.guarantee", "-1"),
        ("convgpu.wait", "soon"),
        ("convgpu.priority", "high"),
        ("convgpu.priority", "1.5"),
        ("convgpu.limt", "4GiB"),
        ("convgpu.admit", "later"),
    ],
)
def test_a_bad_label_is_named(name, value):
    with pytest.raises(UsageError, match=name):
        parse_labels({name: value})


def test_a_guarantee_above_the_limit_is_refused_with_both_numbers():
    with pytest.raises(UsageError, match=r"convgpu\.guarantee: 3GiB is more than the limit 2GiB"):
        parse_labels({"convgpu.limit": "2GiB", "convgpu.guarantee": "3GiB"})
