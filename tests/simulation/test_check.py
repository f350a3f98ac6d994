# SPDX-License-Identifier: Apache-2.0
"""Differences between what is recorded and what the engine decides are found, whatever they are in.

That there are none in a real recording is checked after every test of tests/daemon.
"""

from __future__ import annotations

from typing import Any

import pytest
from logs import CONTAINER, GPU, Log

from convgpu.core.units import GIB
from convgpu.simulation.check import CheckReport, check
from convgpu.simulation.recording import read_recording

FIGURES: dict[str, Any] = {
    "limit_bytes": 8 * GIB,
    "guarantee_bytes": 0,
    "assigned_bytes": 6 * GIB,
    "used_bytes": 0,
    "free_bytes": 4 * GIB,
    "capacity_bytes": 10 * GIB,
    "waiting_bytes": 0,
}


def checked(log: Log) -> CheckReport:
    return check(read_recording(log.lines, "log"))


def messages(log: Log) -> list[str]:
    return [difference.message for difference in checked(log).differences]


def begun() -> Log:
    return Log().start().container(1).process(2)


def test_what_is_recorded_as_it_was_decided_has_no_differences() -> None:
    log = begun().decide(3, "granted", "1", 6 * GIB, **FIGURES).reclaim(4, 2 * GIB)
    log.decide(5, "denied", "2", 5 * GIB, reason="limit").add(6, "daemon.stop")
    assert checked(log) == CheckReport(decisions=2, daemons=1, differences=())


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_compared(name: str) -> None:
    changed = FIGURES | {name: FIGURES[name] + 1}
    (message,) = messages(begun().decide(3, "granted", "1", 6 * GIB, **changed))
    assert message == f"request 1 granted: {name} is {FIGURES[name]}, recorded: {FIGURES[name] + 1}"


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("denied", {"reason": "limit"}, "recorded: request 1 denied; the engine: granted instead"),
        ("suspended", {}, "recorded: request 1 suspended; the engine: granted instead"),
        ("resumed", {}, "recorded: request 1 resumed; the engine: nothing of the kind"),
    ],
)
def test_another_decision_is_a_difference(kind: str, more: dict[str, Any], message: str) -> None:
    assert messages(begun().decide(3, kind, "1", GIB, **more)) == [message]


def test_another_reason_is_a_difference() -> None:
    log = begun().decide(3, "denied", "1", 9 * GIB, reason="not_now", waitable=False)
    assert messages(log) == ["request 1 denied: recorded for not_now, the engine: limit"]


def test_a_decision_that_is_missing_is_a_difference() -> None:
    other = {"id": "d" * 64, "name": "beta", "image": None}
    process = {"pid": 8, "start_ticks": 1, "comm": None, "uid": 0}
    theirs = {"container": other, "process": process}
    log = begun().container(2.5, other).process(2.6, **theirs).decide(3, "granted", "1", 8 * GIB)
    log.decide(4, "suspended", "2", 8 * GIB, need_bytes=8 * GIB, **theirs)
    log.process(5, "process.gone", used_bytes=8 * GIB)  # now the engine grants request 2
    stopped = [*log.lines]
    assert messages(log.add(6, "daemon.stop")) == ["the engine decides: request 2 resumed; not recorded"]
    killed = Log()
    killed.lines = stopped
    assert messages(killed) == [], "what a daemon that was killed decided last may not be in the log"


def test_another_share_at_the_start_is_a_difference() -> None:
    log = Log().start().container(1, guarantee_bytes=2 * GIB, assigned_bytes=GIB)
    assert messages(log) == [f"alpha is assigned {2 * GIB} bytes at its start, recorded: {GIB}"]


def test_an_event_that_cannot_have_been_is_a_difference() -> None:
    (message,) = messages(begun().reclaim(3, GIB))
    assert message.startswith("the engine does not take the event:")


def test_settings_that_change_are_followed() -> None:
    log = begun()
    log.add(3, "config.changed", settings={"algorithm": "fair", "max_bypass": "1"}, old_settings={"algorithm": "fifo"})
    log.add(4, "config.changed", settings={"device.0.safe": "false"}, old_settings={})
    log.add(5, "capacity.changed", gpu=GPU, old_capacity_bytes=1, capacity_bytes=7 * GIB, reason="others")
    figures = FIGURES | {"capacity_bytes": 7 * GIB, "free_bytes": GIB}
    assert messages(log.decide(6, "granted", "1", 6 * GIB, **figures)) == []


def test_a_start_that_was_denied_is_compared() -> None:
    log = Log().start().container(1, guarantee_bytes=2 * GIB, queued_ns=1, assigned_bytes=2 * GIB)
    log.add(2, "start.denied", container=CONTAINER, waited_ns=1, reason="wait_timeout")
    (message, *_) = messages(log)
    assert message == f"recorded: request {'c' * 64} not admitted; the engine: admitted instead"
