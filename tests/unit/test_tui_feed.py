# SPDX-License-Identifier: Apache-2.0
"""Snapshots as they come."""

from __future__ import annotations

import select
from dataclasses import replace

from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot
from convgpu.tui.bell import Bell
from convgpu.tui.feed import Feed, Reading

INTERVAL_S = 0.02


def next_reading(feed, bell):
    ready, _, _ = select.select([bell.descriptor], [], [], 10)
    assert ready, "the bell did not ring"
    bell.silence()
    return feed.latest()


def test_a_reading_rings_and_looking_silences(tmp_path):
    newer = replace(sample_snapshot(), algorithm="newer")
    with (
        FakeControlServer(newer, tmp_path / "control.sock"),
        Feed(tmp_path / "control.sock", INTERVAL_S, sample_snapshot(), bell := Bell()) as feed,
    ):
        assert next_reading(feed, bell).snapshot == newer


def test_the_last_figures_stay_while_the_daemon_is_away(tmp_path):
    first = sample_snapshot()
    server = FakeControlServer(first, tmp_path / "control.sock")
    with Feed(tmp_path / "control.sock", INTERVAL_S, first, bell := Bell()) as feed:
        away = next_reading(feed, bell)
        assert away.snapshot == first
        assert "no ConvGPU daemon answers" in away.error
        server.start()
        reading = away
        while reading.error is not None:
            reading = next_reading(feed, bell)
        server.stop()
        while reading.error is None:
            reading = next_reading(feed, bell)
        assert reading.snapshot == first
        assert reading.received_s > away.received_s


def test_old_figures_are_called_old():
    fresh = Reading(sample_snapshot(), received_s=100.0)
    assert fresh.notice(now_s=102.0, interval_s=1.0) is None
    assert "12 s old" in fresh.notice(now_s=112.0, interval_s=1.0)
    assert fresh.notice(now_s=112.0, interval_s=10.0) is None, "a long interval is not a silence"
    failed = Reading(sample_snapshot(), received_s=100.0, error="gone")
    assert failed.notice(now_s=101.0, interval_s=1.0) == "figures are 1 s old, trying again: gone"
