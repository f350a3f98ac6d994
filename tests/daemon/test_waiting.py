# SPDX-License-Identifier: Apache-2.0
"""Who waits, why, what lets it go on, and that a restart of the daemon changes nothing of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from house import House, PeerProcess

from convgpu.core.identity import ContainerId
from convgpu.core.starting import AdmitAnswer
from convgpu.core.status import WaitingStatus
from convgpu.core.units import GIB
from convgpu.errors import ConvgpuError, QuotaRefusedError, UsageError

pytestmark = pytest.mark.root

AGAIN = 4


def guest(house: House, name: str, **labels: str) -> tuple[ContainerId, PeerProcess]:
    """A container with one process that has said hello."""
    container = house.container(name, **labels)
    peer = house.peer(container)
    assert peer.do("hello")["type"] == "WELCOME"
    return container, peer


def take(peer: PeerProcess, size_bytes: int) -> None:
    peer.do("acquire", size_bytes)
    assert peer.do("answer")["type"] == "GRANTED"
    peer.do("settle", size_bytes)


def queue(house: House, container: str | None = None) -> tuple[WaitingStatus, ...]:
    with house.client() as client:
        return client.queue(container)


def test_the_queue_says_who_waits_why_and_what_would_let_it_go_on(house: House) -> None:
    house.start()
    holder_id, holder = guest(house, "holder", limit="7GiB", guarantee="0")
    _, waiter = guest(house, "waiter", limit="8GiB", guarantee="0", wait="1h")
    assert queue(house) == ()
    take(holder, 7 * GIB)
    waiter.do("acquire", 4 * GIB)
    (entry,) = house.until("it waits", lambda: queue(house))
    assert (entry.kind, entry.container_name, entry.pid) == ("allocation", "waiter", waiter.process.pid)
    # It has been given the three that were free already.
    assert (entry.size_bytes, entry.need_bytes) == (4 * GIB, GIB)
    assert entry.left_ms is not None
    assert 0 < entry.left_ms <= 3_600_000
    assert (entry.place, entry.passed, entry.overdue) == ("in order of creation", 0, False)
    assert (entry.obstacle, entry.enough) == ("not_free", (holder_id,))
    assert entry.goes_on == "when 1GiB are free on GPU 0 (0B now); the end of holder is enough"
    assert queue(house, "holder") == ()
    assert [other.container_name for other in queue(house, "waiter")] == ["waiter"]
    with house.client() as client:
        (plain,) = client.snapshot().queue
    assert plain.goes_on is None, "an explanation takes time: only who asks for it gets it"


def test_a_request_that_was_passed_over_often_enough_is_next(house: House) -> None:
    house.settings |= {"algorithm": "priority", "max_bypass": 1}
    house.start()
    _, holder = guest(house, "holder", limit="6GiB", guarantee="0")
    _, patient = guest(house, "patient", limit="6GiB", guarantee="0")
    _, urgent = guest(house, "urgent", limit="6GiB", guarantee="0", priority="5")
    take(holder, 6 * GIB)
    patient.do("acquire", 6 * GIB)
    house.until("it waits", lambda: queue(house))
    urgent.do("acquire", 6 * GIB)
    house.until("both wait", lambda: len(queue(house)) == 2)
    assert [entry.container_name for entry in queue(house)] == ["urgent", "patient"]
    holder.kill()
    assert urgent.do("answer")["type"] == "GRANTED"
    (entry,) = queue(house)
    assert (entry.passed, entry.overdue) == (1, True)
    assert entry.place == "passed over 1 times: before all that came later, whatever the algorithm says"


def test_a_restart_keeps_assignments_waiters_their_places_and_how_often_they_were_passed_over(house: House) -> None:
    house.settings |= {"algorithm": "priority", "max_bypass": 5}
    house.start()
    _, holder = guest(house, "holder", limit="6GiB", guarantee="0")
    _, first = guest(house, "first", limit="6GiB", guarantee="0")
    _, second = guest(house, "second", limit="6GiB", guarantee="1GiB", priority="1")
    _, third = guest(house, "third", limit="6GiB", guarantee="0", priority="5")
    take(holder, 6 * GIB)
    for peer in (first, second, third):
        before = len(queue(house))
        peer.do("acquire", 6 * GIB)
        house.until("it waits", lambda before=before: len(queue(house)) > before)
    suspended = house.until("it is written", lambda: house.records("decision.suspended")[2:] and True)
    assert suspended
    arrived_ns = {
        peer: record["mono_ns"]
        for peer, record in zip((first, second, third), house.records("decision.suspended"), strict=True)
    }
    holder.kill()
    assert third.do("answer")["type"] == "GRANTED"
    third.do("settle", 6 * GIB)
    before_all = describe(house)
    assert [entry[0] for entry in before_all["queue"]] == ["second", "first"]
    assert [entry[-1] for entry in before_all["queue"]] == [1, 1]
    house.stop()
    house.start()
    for peer in (first, second):  # as their wrappers do
        peer.do("hello", "again", peer.do("instance"))
        peer.do("acquire", 6 * GIB, "again", AGAIN, arrived_ns[peer])
    house.until("both wait again", lambda: len(queue(house)) == 2)
    assert describe(house) == before_all
    third.kill()
    assert second.do("answer", "again")["type"] == "GRANTED"


def describe(house: House) -> dict[str, Any]:
    """What must not change."""
    with house.client() as client:
        snapshot = client.snapshot()
    return {
        "queue": [(entry.container_name, entry.size_bytes, entry.position, entry.passed) for entry in snapshot.queue],
        "containers": [
            (container.name, device.limit_bytes, device.guarantee_bytes, device.assigned_bytes, device.denied)
            for container in snapshot.containers
            for device in container.devices
        ],
        "gpus": [(gpu.assigned_bytes, gpu.capacity_bytes) for gpu in snapshot.gpus],
    }


class Start(threading.Thread):
    """`convgpu run --admit wait`, the part that asks the daemon."""

    def __init__(self, house: House, container: ContainerId) -> None:
        super().__init__(daemon=True)
        self.container = container
        self.answer: AdmitAnswer | ConvgpuError | None = None
        self.client = house.client()
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.client.admit(self.container)
        except ConvgpuError as error:
            self.answer = error
        self.client.close()


def test_a_start_waits_for_its_whole_guarantee_and_keeps_it(house: House) -> None:
    house.start()
    holder_id, holder = guest(house, "holder", limit="8GiB")
    created = house.container("created", announce=False, state="created", limit="6GiB")
    start = Start(house, created)
    (entry,) = house.until("it waits", lambda: queue(house))
    assert (entry.kind, entry.container_name, entry.pid, entry.size_bytes) == ("start", "created", None, 6 * GIB)
    assert entry.goes_on == "when 6GiB are free on GPU 0 (2GiB now); the end of holder is enough"
    assert start.answer is None
    house.docker.end(holder_id)
    house.until("it may start", lambda: start.answer)
    assert isinstance(start.answer, AdmitAnswer)
    with house.client() as client:
        (container,) = client.snapshot().containers
    assert (container.name, container.devices[0].assigned_bytes) == ("created", 6 * GIB)
    house.run(created)
    peer = house.peer(created)
    peer.do("hello")
    take(peer, 6 * GIB)
    assert [len(house.records(f"start.{word}")) for word in ("suspended", "admitted", "denied")] == [1, 1, 0]
    holder.kill()


def test_who_hangs_up_gives_its_start_up(house: House) -> None:
    house.start()
    guest(house, "holder", limit="8GiB")
    start = Start(house, house.container("created", announce=False, state="created", limit="6GiB"))
    house.until("it waits", lambda: queue(house))
    start.client._connection._socket.shutdown(2)
    house.until("it does not wait any more", lambda: not queue(house))
    with house.client() as client:
        assert [container.name for container in client.snapshot().containers] == ["holder"]
    start.join(10)


def test_a_start_has_the_wait_time_of_its_label(house: House) -> None:
    house.start()
    guest(house, "holder", limit="8GiB")
    start = Start(house, house.container("created", announce=False, state="created", limit="6GiB", wait="200ms"))
    start.join(10)
    assert isinstance(start.answer, QuotaRefusedError)
    assert "wait_timeout" in start.answer.message
    (denied,) = house.records("start.denied")
    assert denied["reason"] == "wait_timeout"
    assert queue(house) == ()


def test_a_container_that_is_removed_while_its_start_waits_is_forgotten(house: House) -> None:
    house.start()
    guest(house, "holder", limit="8GiB")
    created = house.container("created", announce=False, state="created", limit="6GiB")
    start = Start(house, created)
    house.until("it waits", lambda: queue(house))
    house.docker.remove(created)
    start.join(10)
    assert isinstance(start.answer, QuotaRefusedError)
    assert queue(house) == ()


def test_only_a_created_container_can_wait_for_its_start(house: House) -> None:
    house.start()
    running, _ = guest(house, "running", limit="1GiB")
    with house.client() as client, pytest.raises(UsageError, match="it is running"):
        client.admit(running)
    with house.client() as client, pytest.raises(QuotaRefusedError, match="11GiB"):
        client.admit(house.container("huge", announce=False, state="created", limit="11GiB"))
