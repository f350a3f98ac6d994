# SPDX-License-Identifier: Apache-2.0
"""The feed of a whole daemon: what it writes into the log, told to everybody who asks, as it happens."""

from __future__ import annotations

import threading

import pytest
from house import House, PeerProcess

from convgpu.core.events import LogEvent
from convgpu.core.units import GIB, MIB
from convgpu.errors import DaemonUnavailableError, UnknownContainerError, UsageError
from convgpu.testing.witness import FakeWitness

pytestmark = pytest.mark.root


class Follower:
    """Reads the feed in a thread of its own."""

    def __init__(self, house: House, container: str | None = None, **wanted: object) -> None:
        self.events: list[LogEvent] = []
        self.ended = False
        self._client = house.client()
        self._batches = self._client.events(container, **wanted)  # type: ignore[arg-type]
        self.events += next(self._batches).events  # the daemon has heard of it
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for batch in self._batches:
                self.events += batch.events
        except DaemonUnavailableError:
            self.ended = True
        finally:
            self._client.close()

    def told(self, type_name: str) -> list[LogEvent]:
        return [event for event in self.events if event.type == type_name]


def ask(peer: PeerProcess, size_bytes: int) -> None:
    peer.do("acquire", size_bytes)
    peer.do("answer")


def happened(house: House, container: str | None = None, **wanted: object) -> list[LogEvent]:
    with house.client() as client:
        batches = client.events(container, follow=False, **wanted)  # type: ignore[arg-type]
        return [event for batch in batches for event in batch.events]


def test_a_decision_is_told_as_it_is_taken_in_the_words_of_the_log(house: House) -> None:
    house.start()
    follower = Follower(house, last=0)
    peer = house.peer(house.container("gamma", limit="1GiB"))
    peer.do("hello")
    ask(peer, 2 * GIB)
    house.until("it is told", lambda: follower.told("decision.denied"))
    (denied,) = follower.told("decision.denied")
    assert denied.sentence.startswith("gamma was denied 2GiB on GPU 0: over its limit, holds 0B of 1GiB, for ")
    assert (denied.container_name, denied.gpu, denied.size_bytes, denied.reason) == ("gamma", 0, 2 * GIB, "limit")
    (record,) = house.records("decision.denied")
    assert (denied.seq, denied.ts, denied.mono_ns) == (record["seq"], record["ts"], record["mono_ns"])
    assert (denied.sentence, denied.pid) == (record["msg"], record["process"]["pid"])


def test_the_last_are_told_first_oldest_first_and_only_those_wanted(house: House) -> None:
    house.start()
    for name in ("alpha", "gamma"):
        peer = house.peer(house.container(name, limit="1GiB"))
        peer.do("hello")
        ask(peer, MIB)
        ask(peer, 2 * GIB)
    everything = happened(house, last=1000)
    assert [event.seq for event in everything] == sorted(event.seq or 0 for event in everything)
    assert everything[0].type == "daemon.start"
    assert {event.type for event in happened(house, "gamma", last=1000)} >= {"container.seen", "decision.denied"}
    assert {event.container_name for event in happened(house, "gamma", last=1000)} == {"gamma"}
    decisions = happened(house, topics=("decision",))
    assert [(event.container_name, event.type) for event in decisions] == [
        (name, f"decision.{outcome}") for name in ("alpha", "gamma") for outcome in ("granted", "denied")
    ]
    assert happened(house, topics=("decision",), last=1) == decisions[-1:]


def test_a_container_that_is_gone_can_still_be_asked_about(house: House) -> None:
    house.start()
    gone = house.container("gone", limit="1GiB")
    house.until("it is guarded", lambda: house.records("container.seen"))
    house.docker.end(gone)
    house.until("it is gone", lambda: house.records("container.gone"))
    assert [event.type for event in happened(house, "gone")][-1] == "container.gone"
    assert happened(house, gone[:64], last=1)[0].container_id == gone


def test_who_asks_for_what_is_not_there_is_told_what_is(house: House) -> None:
    house.start()
    with pytest.raises(UnknownContainerError):
        happened(house, "nobody")
    with pytest.raises(UsageError, match="no events about decisions") as refused:
        happened(house, topics=("decisions",))
    assert "decision, start, limit" in str(refused.value.next_step)


def test_a_closer_look_has_sizes_what_waits_and_what_was_decided(house: House) -> None:
    house.witness = FakeWitness()
    house.start()
    house.until("it watches", lambda: house.service is not None and house.service.observer.running)
    house.container("holder", limit="9GiB")
    peer = house.peer(house.container("alpha", limit="4GiB", guarantee="1GiB"))
    peer.do("hello")
    house.witness.process(peer.process.pid, cgroup_id=7)
    for size_bytes in (2 * MIB, 3 * MIB, GIB):
        house.witness.alloc(peer.process.pid, size_bytes)
    house.witness.free(peer.process.pid, GIB)
    peer.do("acquire", 3 * GIB)
    with house.client() as client:
        expected = {"boundary": {21: 2, **dict.fromkeys(range(22, 30), 0), 30: 1}}
        house.until("all is seen", lambda: client.container_detail("alpha").sizes == expected)
        detail = house.until("it waits", lambda: client.container_detail("alpha") if house_waits(house) else None)
    assert (detail.name, detail.limit_source) == ("alpha", "label")
    (waiting,) = detail.waiting
    assert "the end of holder is enough" in str(waiting.goes_on)
    assert [event.type for event in detail.decisions][-1] == "decision.suspended"
    with house.client() as client:
        assert client.container_detail("holder").sizes == {}
        with pytest.raises(UnknownContainerError):
            client.container_detail("nobody")


def test_without_a_witness_sizes_are_not_known(house: House) -> None:
    house.start()
    house.container("alpha", limit="4GiB")
    house.until("it is guarded", lambda: house.records("container.seen"))
    with house.client() as client:
        assert client.container_detail("alpha").sizes is None


def house_waits(house: House) -> bool:
    with house.client() as client:
        return bool(client.queue())


def test_a_daemon_that_stops_ends_the_feed(house: House) -> None:
    house.start()
    follower = Follower(house)
    house.stop()
    house.until("it is over", lambda: follower.ended)
