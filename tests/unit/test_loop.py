# SPDX-License-Identifier: Apache-2.0
"""The loop stays awake for a moment after a client was heard, and only then."""

from __future__ import annotations

import selectors
import socket
import time

import pytest

from convgpu.daemon import loop
from convgpu.daemon.loop import WakefulEventLoop, WakefulSelector, stay_awake


@pytest.fixture
def selector(monkeypatch: pytest.MonkeyPatch) -> WakefulSelector:
    monkeypatch.setattr(loop, "AWAKE_NS", 100_000_000)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    return WakefulSelector()


def processor_time_s(selector: WakefulSelector, timeout_s: float) -> float:
    before_s = time.thread_time()
    assert selector.select(timeout_s) == []
    return time.thread_time() - before_s


def test_it_sleeps_until_a_client_is_heard(selector: WakefulSelector) -> None:
    assert processor_time_s(selector, 0.05) < 0.01
    selector.stay_awake()
    assert processor_time_s(selector, 0.15) > 0.03
    assert processor_time_s(selector, 0.05) < 0.01, "and after a moment it sleeps again"


def test_it_never_stays_awake_on_the_only_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "AWAKE_NS", 100_000_000)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    selector = WakefulSelector()
    selector.stay_awake()
    assert processor_time_s(selector, 0.05) < 0.01


def test_what_is_ready_is_found_awake_and_asleep(selector: WakefulSelector) -> None:
    near, far = socket.socketpair()
    with near, far:
        selector.register(near, selectors.EVENT_READ)
        for awake in (False, True):
            if awake:
                selector.stay_awake()
            far.send(b"x")
            assert [key.fileobj for key, _ in selector.select(1)] == [near]
            near.recv(1)


def test_the_loop_is_an_ordinary_one() -> None:
    event_loop = WakefulEventLoop()
    called: list[str] = []
    stay_awake(event_loop)
    event_loop.call_later(0.01, called.append, "later")
    event_loop.call_later(0.02, event_loop.stop)
    event_loop.call_soon(called.append, "soon")
    event_loop.run_forever()
    event_loop.close()
    assert called == ["soon", "later"]
