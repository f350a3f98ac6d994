# SPDX-License-Identifier: Apache-2.0
"""A live trace of a whole daemon: what the witness sees, to everybody who asks, as it happens."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from house import House

from convgpu.api import Client
from convgpu.connection import Answer
from convgpu.core.trace import TraceBatch, TraceEvent
from convgpu.core.units import GIB, MIB
from convgpu.daemon.tracer import WAITING_EVENTS
from convgpu.errors import DaemonUnavailableError, EnvironmentMissingError, UnknownContainerError
from convgpu.testing.witness import FakeWitness

pytestmark = pytest.mark.root


@pytest.fixture
def witness(house: House) -> FakeWitness:
    # The house stops its daemon at the end, and every trace ends with it.
    house.witness = FakeWitness(ring_events=100_000)
    house.settings["interval_s"] = 1.0
    house.start()
    house.until("it watches", lambda: house.service is not None and house.service.observer.running)
    return house.witness


class Follower:
    """Reads a trace in a thread of its own."""

    def __init__(self, house: House, container: str | None = None, **wanted: Any) -> None:
        self.events: list[TraceEvent] = []
        self.ended = False
        self.stacks_lost = 0
        self.witness_lost = 0
        self.client: Client = house.client()
        self._batches: Iterator[TraceBatch] = self.client.trace(container, **wanted)
        next(self._batches)  # the daemon has heard of it
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for batch in self._batches:
                self.events += batch.events
                self.stacks_lost += batch.stacks_lost
                self.witness_lost += batch.witness_lost
        except DaemonUnavailableError:
            self.ended = True
        finally:
            self.client.close()


def test_an_allocation_is_told_while_it_is_new_with_the_name_of_its_container(
    house: House, witness: FakeWitness
) -> None:
    peer = house.peer(house.container("alpha", limit="4GiB"))
    follower = Follower(house)
    began = time.monotonic()
    witness.process(peer.process.pid, cgroup_id=7, comm="train")
    witness.alloc(peer.process.pid, 4 * MIB)
    house.until("it is told", lambda: follower.events)
    assert time.monotonic() - began < 0.5  # the rounds are a second apart
    (event,) = follower.events
    assert (event.container_name, event.pid, event.comm) == ("alpha", peer.process.pid, "train")
    assert (event.source, event.api, event.kind) == ("boundary", "RM_ALLOC", "alloc")
    assert (event.size_bytes, event.latency_ns, event.gpu) == (4 * MIB, 1000, 0)


def address_in(pid: int, function: str) -> int:
    """Where a process has a function of the C library, which lies alike in this one and in that one."""
    here, there = (
        next(
            int(line.partition("-")[0], 16)
            for line in Path(f"/proc/{each}/maps").read_text().splitlines()
            if "r-xp" in line and "/libc.so" in line
        )
        for each in ("self", pid)
    )
    own = ctypes.cast(getattr(ctypes.CDLL(None), function), ctypes.c_void_p).value
    assert own is not None
    return own - here + there


def test_stacks_are_told_by_name_to_who_asks_and_to_nobody_else(house: House, witness: FakeWitness) -> None:
    peer = house.peer(house.container("alpha", limit="4GiB"))
    pid = peer.process.pid
    witness.process(pid, cgroup_id=7)
    witness.stack(pid, (address_in(pid, "getenv") + 5, 0x10))
    plain = Follower(house)
    assert witness.stacks_until_ns == 0  # nobody has asked, so nobody pays
    with house.client() as client:
        batches = client.trace(stacks=True)
        next(batches)
        witness.lose_stacks(3)
        witness.alloc(pid, 4 * MIB)
        events: list[TraceEvent] = []
        lost = 0
        while not events or not lost:
            batch = next(batches)
            events += batch.events
            lost += batch.stacks_lost
        assert lost == 3
        assert events[0].stack is not None
        (named,) = events[0].stack  # what is no code ends it
        assert named.startswith("getenv+0x5 (libc.so")
        next(batches)
        house.until("it is wanted anew", lambda: witness.stacks_until_ns > time.monotonic_ns() + 2_500_000_000)
    house.until("it was told to the other too", lambda: plain.events)
    assert plain.events[0].stack is None
    assert (plain.stacks_lost, plain.witness_lost) == (0, 0)
    house.until("it is not wanted any more", lambda: witness.stacks_until_ns < time.monotonic_ns())


def test_everybody_gets_what_they_asked_for_and_the_log_gets_everything(house: House, witness: FakeWitness) -> None:
    alpha, beta = (house.peer(house.container(name, limit="4GiB")) for name in ("alpha", "beta"))
    everything, of_alpha, large, frees = (
        Follower(house),
        Follower(house, "alpha"),
        Follower(house, min_bytes=GIB),
        Follower(house, kind="free"),
    )
    witness.process(alpha.process.pid, cgroup_id=7)
    witness.process(beta.process.pid, cgroup_id=8)
    for peer in (alpha, beta):
        witness.alloc(peer.process.pid, GIB)
        witness.alloc(peer.process.pid, 2 * MIB)
        witness.free(peer.process.pid, 2 * MIB)
    house.until("all is told", lambda: len(everything.events) == 6)
    house.until("and to the others", lambda: [len(f.events) for f in (of_alpha, large, frees)] == [3, 2, 2])
    assert {event.container_name for event in of_alpha.events} == {"alpha"}
    house.until("the large ones are in the log", lambda: len(house.records("witness.alloc")) == 2)
    house.until("the small ones are", lambda: len(house.records("witness.summary")) == 4)


def test_a_reader_that_is_too_slow_loses_events_and_is_told_how_many(house: House, witness: FakeWitness) -> None:
    slow = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(str(house.config.paths.control_socket))
    slow.sendall(b'{"id": 1, "op": "trace"}\n')
    lines = slow.makefile("rb")
    assert msgspec.json.decode(lines.readline(), type=Answer).more
    told = lost = 0
    count = 3 * WAITING_EVENTS
    for _ in range(count):
        witness.alloc(1, 4096)
    house.until("the daemon has taken them", lambda: house.records("witness.summary"))
    with house.client() as client:  # nobody else is held up
        assert client.snapshot().witness.running
    while told + lost < count:
        answer = msgspec.json.decode(lines.readline(), type=Answer)
        batch = msgspec.json.decode(answer.ok, type=TraceBatch)
        told += len(batch.events)
        lost += batch.lost
        assert batch.witness_lost == 0
    assert told + lost == count
    assert lost > 0
    slow.close()


def test_what_the_kernel_had_no_room_for_is_told_too(house: House) -> None:
    house.witness = FakeWitness(ring_events=10)
    house.start()
    house.until("it watches", lambda: house.service is not None and house.service.observer.running)
    with house.client() as client:
        batches = client.trace()
        next(batches)
        for _ in range(1000):
            house.witness.alloc(1, 4096)
        lost = told = 0
        while told + lost < 1000:
            batch = next(batches)
            told += len(batch.events)
            lost += batch.witness_lost
        assert (told + lost, lost > 0) == (1000, True)


def test_who_goes_away_is_forgotten(house: House, witness: FakeWitness) -> None:
    assert house.service is not None
    with house.client() as client:
        next(client.trace())
    time.sleep(2.5)  # the next batch finds nobody
    witness.alloc(1, 4096)
    with house.client() as client:
        assert client.snapshot().witness.running
        for batch in client.trace():
            assert batch.events == ()  # what happened before is not told
            break


def test_without_a_witness_there_is_nothing_to_trace(house: House) -> None:
    house.start()
    with house.client() as client, pytest.raises(EnvironmentMissingError, match="off by configuration"):
        next(client.trace())


def test_a_container_that_is_not_known_is_an_error(house: House, witness: FakeWitness) -> None:
    assert witness is house.witness
    with house.client() as client, pytest.raises(UnknownContainerError):
        next(client.trace("nobody"))


def test_a_daemon_that_stops_ends_the_trace(house: House, witness: FakeWitness) -> None:
    assert witness is house.witness
    follower = Follower(house)
    house.stop()
    house.until("it is over", lambda: follower.ended)
