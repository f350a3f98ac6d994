# SPDX-License-Identifier: Apache-2.0
"""What a daemon does with processes that ask: real sockets, pages, pidfds and cgroups; Docker and NVML are fakes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import House

from convgpu.audit.verify import verify
from convgpu.core.units import GIB, MIB
from convgpu.errors import ConvgpuError, QuotaRefusedError, UnknownContainerError, UsageError

pytestmark = pytest.mark.root

NOWAIT, FORCE, AGAIN = 1, 2, 4
LIMIT, NOT_NOW, WAIT_TIMEOUT, DEVICE, VERSION, UNKNOWN = 1, 2, 3, 4, 5, 6


def explained(house: House, reason: str) -> None:
    """Wait until the log says so: it is written after the answer, and others write into it too."""
    house.until(reason, lambda: any(reason in each["reason"] for each in house.records("reconcile")))


def test_a_process_is_known_by_its_cgroup_and_gets_its_page(house: House) -> None:
    house.start()
    peer = house.peer(house.container("alpha", limit="4GiB"))
    assert peer.do("hello")["type"] == "WELCOME"
    assert peer.do("page") == {"granted": 0, "credit": 0, "used": 0, "limit": 4 * GIB, "hint": 640 * MIB, "wanted": 0}
    (seen,) = house.records("process.seen")
    assert (seen["process"]["pid"], seen["container"]["name"]) == (peer.process.pid, "alpha")


def test_a_process_of_the_host_is_left_alone(house: House) -> None:
    house.start()
    assert house.peer(None).do("hello")["type"] == "UNMANAGED"


def test_the_first_message_may_come_before_docker_s_event(house: House) -> None:
    house.start()
    peer = house.peer(house.container("early", announce=False, limit="4GiB"))
    assert peer.do("hello")["type"] == "WELCOME"
    assert peer.do("query")["total"] == 4 * GIB


def test_a_container_without_a_label_may_use_what_is_free_and_no_more(house: House) -> None:
    house.start()
    peer = house.peer(house.container("plain"))
    assert peer.do("hello")["type"] == "WELCOME"
    assert peer.do("query")["total"] == 10 * GIB
    with house.client() as client:
        assert client.snapshot().containers[0].devices[0].guarantee_bytes == 0


def test_a_name_that_nobody_has_is_answered_with_the_nearest(house: House) -> None:
    house.start()
    house.container("trainer", limit="4GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
        with pytest.raises(UnknownContainerError, match="did you mean trainer"):
            client.limit_get("trianer")
        with pytest.raises(UnknownContainerError, match="called 'nothing like it'"):
            client.limit_get("nothing like it")


def test_a_container_without_a_label_can_be_denied(house: House) -> None:
    house.settings["default_limit"] = "deny"
    house.start()
    answer = house.peer(house.container("plain")).do("hello")
    assert (answer["type"], answer["reason"]) == ("REFUSED", UNKNOWN)


@pytest.mark.parametrize("labels", [{"limit": "lots"}, {"limit": "11GiB"}, {"limit": "1GiB", "limt": "2GiB"}])
def test_a_bad_label_lets_nothing_through(house: House, labels: dict[str, str]) -> None:
    house.start()
    assert house.peer(house.container("typo", **labels)).do("hello")["type"] == "REFUSED"
    explained(house, "a process was refused")


def test_grants_denials_and_what_a_container_sees_of_its_device(house: House) -> None:
    house.start()
    peer = house.peer(house.container("alpha", limit="4GiB"))
    peer.do("hello")
    peer.do("acquire", 3 * GIB)
    assert peer.do("answer") | {"request": 7} == {
        "type": "GRANTED", "request": 7, "size": 3 * GIB, "reason": 0, "total": 0, "free": 0,
    }  # fmt: skip
    peer.do("settle", 3 * GIB)
    assert peer.do("query")["free"] == GIB
    peer.do("acquire", 2 * GIB)
    assert (peer.do("answer"))["reason"] == LIMIT
    peer.do("acquire", GIB // 2, "first", FORCE)
    assert peer.do("answer")["type"] == "GRANTED"
    assert peer.do("page")["granted"] == 3 * GIB + GIB // 2
    assert [record["reason"] for record in house.records("decision.denied")] == ["limit"]
    granted = house.until("both are written", lambda: house.records("decision.granted")[1:2] or None)
    assert [record["forced"] for record in granted] == [True]


def test_a_waiter_goes_on_when_the_holder_is_killed(house: House) -> None:
    house.start()
    holder = house.peer(house.container("holder", limit="8GiB", guarantee="0"))
    waiter = house.peer(house.container("waiter", limit="8GiB", guarantee="0"))
    holder.do("hello")
    waiter.do("hello")
    holder.do("acquire", 7 * GIB)
    assert holder.do("answer")["type"] == "GRANTED"
    holder.do("settle", 7 * GIB)
    waiter.do("acquire", 7 * GIB)
    assert waiter.do("answer", "first", 0.2)["type"] is None
    house.until("the holder is told that somebody waits", lambda: holder.do("page")["wanted"] == 1)
    with house.client() as client:
        snapshot = client.snapshot()
    assert [entry.container_name for entry in snapshot.queue] == ["waiter"]
    began = time.monotonic()
    holder.kill()
    assert waiter.do("answer")["type"] == "GRANTED"
    assert time.monotonic() - began < 0.5
    (gone,) = house.records("process.gone")
    assert gone["used_bytes"] == 7 * GIB
    (resumed,) = house.until("it is written", lambda: house.records("decision.resumed"))
    assert resumed["waited_ns"] >= 200_000_000
    house.until("nobody waits any more", lambda: waiter.do("page")["wanted"] == 0)


def test_a_free_that_is_announced_wakes_a_waiter_and_one_whose_announcement_is_lost_does_too(house: House) -> None:
    house.start()
    holder = house.peer(house.container("holder", limit="8GiB", guarantee="0"))
    waiter = house.peer(house.container("waiter", limit="8GiB", guarantee="0"))
    holder.do("hello")
    waiter.do("hello")
    for announced in (True, False):
        holder.do("acquire", 7 * GIB)
        assert holder.do("answer")["type"] == "GRANTED"
        holder.do("settle", 7 * GIB)
        waiter.do("acquire", 7 * GIB)
        house.until("it waits", lambda: holder.do("page")["wanted"] == 1)
        holder.do("free", 7 * GIB)
        if announced:
            holder.do("released")
        assert waiter.do("answer")["type"] == "GRANTED"
        assert holder.do("page")["credit"] == 0
        waiter.do("settle", 7 * GIB)
        waiter.do("free", 7 * GIB)


def test_idle_credit_of_a_sibling_is_taken_back_before_anybody_waits(house: House) -> None:
    house.start()
    container = house.container("pair", limit="4GiB")
    first, second = house.peer(container), house.peer(container)
    first.do("hello")
    second.do("hello")
    first.do("acquire", 3 * GIB)
    first.do("answer")
    first.do("settle", 3 * GIB)
    first.do("free", 3 * GIB)
    second.do("acquire", 3 * GIB, "first", NOWAIT)
    assert second.do("answer")["type"] == "GRANTED"
    assert first.do("page")["granted"] == first.do("page")["credit"] == 0


def test_now_or_never(house: House) -> None:
    house.start()
    holder = house.peer(house.container("holder", limit="8GiB"))
    other = house.peer(house.container("other", limit="8GiB"))
    holder.do("hello")
    other.do("hello")
    other.do("acquire", 4 * GIB, "first", NOWAIT)
    assert other.do("answer")["reason"] == NOT_NOW


def test_a_wait_time_ends_in_a_denial(house: House) -> None:
    house.start()
    house.container("holder", limit="8GiB")
    late = house.peer(house.container("late", limit="8GiB", wait="300ms"))
    late.do("hello")
    late.do("acquire", 4 * GIB)
    began = time.monotonic()
    assert late.do("answer")["reason"] == WAIT_TIMEOUT
    assert 0.2 < time.monotonic() - began < 1


def test_a_thread_that_gives_up_is_forgotten(house: House) -> None:
    house.start()
    house.container("holder", limit="8GiB")
    peer = house.peer(house.container("waiter", limit="8GiB"))
    peer.do("hello")
    peer.do("hello", "second", 0)
    peer.do("acquire", 4 * GIB, "second")
    with house.client() as client:
        house.until("it waits", lambda: client.snapshot().queue)
        peer.do("close", "second")
        house.until("nobody waits", lambda: not client.snapshot().queue)
    assert peer.do("page")["granted"] == 0


def test_exec_ends_the_account_of_the_program_before(house: House) -> None:
    house.start()
    peer = house.peer(house.container("alpha", limit="4GiB"))
    peer.do("hello")
    peer.do("acquire", 3 * GIB)
    peer.do("answer")
    peer.do("settle", 3 * GIB)
    peer.tell("replace_program")
    assert peer.read() == "ready"
    (gone,) = house.until("the old program's account is over", lambda: house.records("process.gone"))
    assert gone["used_bytes"] == 3 * GIB
    assert peer.do("hello")["type"] == "WELCOME"
    assert peer.do("page")["granted"] == 0
    peer.do("acquire", 4 * GIB)
    assert peer.do("answer")["type"] == "GRANTED"


def test_what_is_no_message_ends_the_connection_and_nothing_else(house: House) -> None:
    house.start()
    peer = house.peer(house.container("alpha", limit="4GiB"))
    peer.do("hello")
    peer.do("acquire", GIB)
    peer.do("answer")
    peer.do("hello", "second", 0)
    peer.do("send_raw", "nonsense", "second")
    assert peer.do("answer", "second")["type"] == "CLOSED"
    explained(house, "was cut off")
    assert peer.do("page")["granted"] == GIB


def test_a_restarted_daemon_knows_everything_and_heals_what_was_granted_and_never_arrived(house: House) -> None:
    house.start()
    alpha = house.container("alpha", limit="4GiB")
    beta = house.container("beta", limit="8GiB")
    first, second = house.peer(alpha), house.peer(beta)
    instance = first.do("hello")["request"]
    second.do("hello")
    first.do("acquire", 3 * GIB)
    first.do("answer")
    first.do("settle", 2 * GIB)  # 1 GiB of the grant is lost on the way, as if the daemon had died there
    second.do("acquire", 7 * GIB)
    with house.client() as client:
        house.until("beta waits", lambda: client.snapshot().queue)
        client.limit_set("alpha", 3 * GIB)
        before = client.snapshot()
    house.stop()
    house.start()
    with house.client() as client:
        after = client.snapshot()
        assert client.limit_get("alpha").source == "command"
    for old, new in zip(before.containers, after.containers, strict=True):
        for key in ("limit_bytes", "guarantee_bytes", "assigned_bytes", "used_bytes"):
            assert getattr(new.devices[0], key) == getattr(old.devices[0], key), (new.name, key)
    answer = first.do("hello", "again", instance)
    assert (answer["type"], answer["request"]) == ("WELCOME", instance)
    house.until("the lost gigabyte is free again", lambda: first.do("page")["granted"] == 2 * GIB)
    assert verify(house.folder / "log" / "audit.jsonl").ok


def test_a_page_whose_process_ended_while_no_daemon_ran_is_gone(house: House) -> None:
    house.start()
    peer = house.peer(house.container("alpha", limit="4GiB"))
    peer.do("hello")
    peer.do("acquire", 3 * GIB)
    peer.do("answer")
    peer.do("settle", 3 * GIB)
    house.stop()
    peer.kill()
    house.start()
    assert list(house.config.paths.pages_dir.iterdir()) == []
    with house.client() as client:
        assert client.snapshot().containers[0].devices[0].used_bytes == 0


def test_a_process_that_writes_itself_credit_gains_nothing_and_harms_nobody(house: House) -> None:
    house.start()
    forger = house.peer(house.container("forger", limit="8GiB", guarantee="0"))
    other = house.peer(house.container("other", limit="8GiB", guarantee="0"))
    forger.do("hello")
    other.do("hello")
    forger.do("acquire", 6 * GIB)
    forger.do("answer")
    forger.do("settle", 5 * GIB)
    forger.do("forge_credit", 1 << 41)
    other.do("acquire", 5 * GIB, "first", NOWAIT)
    assert other.do("answer")["reason"] == NOT_NOW  # the forger's 6 GiB are not free, whatever its page says
    (record,) = house.records("finding.raised")
    assert (record["finding"], record["container"]["name"]) == ("tampered", "forger")
    other.do("acquire", 2 * GIB)  # so that the forger could still reach its limit: the rule that keeps this safe
    assert other.do("answer")["type"] == "GRANTED"


def test_limits_by_command(house: House) -> None:
    house.start()
    identifier = house.container("alpha", limit="4GiB")
    house.container("alphabet", limit="1GiB")
    with house.client() as client:
        house.until("both are known", lambda: len(client.limit_list()) == 2)
        change = client.limit_set(identifier[:63] + identifier[63], 5 * GIB)
        assert (change.name, change.old_limit_bytes, change.new_limit_bytes) == ("alpha", 4 * GIB, 5 * GIB)
        assert client.limit_get("alpha").guarantee_bytes == 5 * GIB
        with pytest.raises(QuotaRefusedError):
            client.limit_set("alpha", 11 * GIB)
        with pytest.raises(UnknownContainerError, match="several"):
            client.limit_get("0" * 10)
        with pytest.raises(UnknownContainerError):
            client.limit_get("alp")
        assert client.limit_remove("alpha").new_limit_bytes == 4 * GIB
        with pytest.raises(ConvgpuError, match="no limit set by command"):
            client.limit_remove("alpha")
        with pytest.raises(UsageError):
            client.check_start(GIB, 2 * GIB)
        with pytest.raises(QuotaRefusedError, match="10GiB"):
            client.check_start(11 * GIB)
    sources = [(record["source"], record["by_uid"]) for record in house.records("limit.set")]
    assert sources == [("command", os.getuid())]


def test_a_container_that_ends_gives_its_share_back_and_its_removal_forgets_its_limit(house: House) -> None:
    house.start()
    identifier = house.container("alpha", limit="4GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
        client.limit_set("alpha", 5 * GIB)
        house.docker.end(identifier)
        house.until("its share is free", lambda: client.snapshot().gpus[0].assigned_bytes == 0)
    assert '"limit_bytes":5368709120' in (house.folder / "state" / "state.json").read_text()
    house.docker.remove(identifier)
    house.until("it is forgotten", lambda: identifier not in (house.folder / "state" / "state.json").read_text())


def test_a_container_is_gone_also_when_docker_removed_it_before_it_could_be_asked(house: House) -> None:
    house.start()
    identifier = house.container("brief", limit="4GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
        del house.docker.known[identifier]  # `docker rm --force`: by the time of the event nobody knows it
        house.docker.tell(identifier, "die")
        house.until("its share is free", lambda: client.snapshot().gpus[0].assigned_bytes == 0)


def test_a_container_whose_first_process_docker_did_not_know_yet_ends_with_that_process(house: House) -> None:
    house.start()
    identifier = house.container("early", announce=False, limit="4GiB")
    peer = house.peer(identifier)
    peer.do("hello")
    first = house.peer(None)
    house.docker.known[identifier] = replace(house.docker.known[identifier], pid=first.process.pid)
    house.docker.tell(identifier, "start")
    time.sleep(0.2)
    first.kill()
    house.until("it is gone", lambda: house.records("container.gone"))


def test_containers_of_another_daemon_of_the_machine_are_not_ours(house: House, tmp_path: Path) -> None:
    house.start()
    house.container("theirs", client_dir=tmp_path / "other" / "client", limit="4GiB")
    house.container("ours", client_dir=house.config.paths.client_dir, limit="4GiB")
    with house.client() as client:
        house.until("ours is known", client.limit_list)
        time.sleep(0.2)
        assert [info.name for info in client.limit_list()] == ["ours"]


def test_a_process_whose_memory_is_estimated_is_shown_and_written_once(house: House) -> None:
    house.start()
    alpha = house.container("alpha", limit="4GiB")
    peer, exact = house.peer(alpha), house.peer(alpha)
    exact.do("hello")
    peer.do("hello")
    peer.do("estimate")

    def said() -> list[dict[str, Any]]:
        return [record for record in house.records("reconcile") if record.get("reason") == "memory is estimated"]

    house.until("it is noticed", said)
    time.sleep(0.5)
    (record,) = said()
    assert record["process"]["pid"] == peer.process.pid
    with house.client() as client:
        (container,) = client.snapshot().containers
    expected = {peer.process.pid: True, exact.process.pid: False}
    assert {process.pid: process.estimated for process in container.processes} == expected
    assert container.devices[0].estimated


def test_a_context_is_reserved_by_the_first_guess_until_one_was_measured(house: House) -> None:
    house.start()
    container = house.container("alpha", limit="4GiB")
    first, second = house.peer(container), house.peer(container)
    first.do("hello")
    second.do("hello")
    assert first.do("page")["hint"] == second.do("page")["hint"] == 640 * MIB
    second.do("measure_context", 518 * MIB)
    third = house.peer(container)
    third.do("hello")
    assert third.do("page")["hint"] == 518 * MIB


def test_a_page_that_a_dying_daemon_left_half_made_is_removed(house: House) -> None:
    house.start()
    house.stop()
    (house.config.paths.pages_dir / "0123456789abcdef.new").write_bytes(b"")
    house.start()
    assert list(house.config.paths.pages_dir.iterdir()) == []


def test_a_wrapper_of_another_version_is_refused_and_the_log_says_why(house: House) -> None:
    house.start()
    peer = house.peer(house.container("old", limit="4GiB"))
    answer = peer.do("hello", "first", 0, 1)
    assert (answer["type"], answer["reason"]) == ("REFUSED", VERSION)
    explained(house, "another ABI version")


def test_a_newer_daemon_leaves_the_page_of_an_older_one_alone_and_keeps_its_share(house: House) -> None:
    house.start()
    container = house.container("old", limit="4GiB")
    peer = house.peer(container)
    peer.do("hello")
    peer.do("acquire", 3 * GIB)
    peer.do("answer")
    peer.do("settle", 3 * GIB)
    house.stop()
    (path,) = house.config.paths.pages_dir.iterdir()
    content = path.read_bytes()
    with path.open("r+b") as page:
        page.seek(4)
        page.write((1).to_bytes(4, "little"))
    house.start()
    assert path.read_bytes()[8:] == content[8:]
    assert peer.do("hello", "again", 0, 1)["reason"] == VERSION
    with house.client() as client:
        (status,) = client.snapshot().containers
    assert status.devices[0].assigned_bytes == 4 * GIB, "nobody else is given what it holds"
    assert any("credit page of version 1" in record["reason"] for record in house.records("reconcile"))
