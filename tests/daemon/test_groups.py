# SPDX-License-Identifier: Apache-2.0
"""Containers that share a quota, in a whole daemon: by label, configuration and command, live and over restarts."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from house import House, PeerProcess

from convgpu.core.identity import ContainerId
from convgpu.core.status import GroupStatus, WaitingStatus
from convgpu.core.units import GIB
from convgpu.errors import ConfigError, ConvgpuError, QuotaRefusedError, UsageError
from convgpu.testing.gpus import FakeGpuSource, make_gpu

pytestmark = pytest.mark.root

AGAIN = 4
UNKNOWN = 6


def guest(house: House, name: str, **labels: str) -> PeerProcess:
    """A container with one process that has said hello; nothing is set aside for it."""
    peer = house.peer(house.container(name, guarantee="0", **labels))
    assert peer.do("hello")["type"] == "WELCOME"
    return peer


def take(peer: PeerProcess, size_bytes: int) -> None:
    peer.do("acquire", size_bytes)
    assert peer.do("answer")["type"] == "GRANTED"
    peer.do("settle", size_bytes)


def queue(house: House) -> tuple[WaitingStatus, ...]:
    with house.client() as client:
        return client.queue()


def group(house: House, name: str) -> GroupStatus:
    with house.client() as client:
        return client.group_get(name)


def figures(house: House, name: str) -> tuple[Any, ...]:
    (device,) = group(house, name).devices
    return (device.limit_bytes, device.source, device.assigned_bytes, device.over)


def set_group(house: House, name: str, limit_bytes: int | None, gpu: str | None = None) -> None:
    with house.client() as client:
        client.group_set(name, limit_bytes, gpu)


def a_full_lab(house: House) -> tuple[PeerProcess, PeerProcess, PeerProcess]:
    """Two containers hold all of the lab's 4 GiB; a third waits, on a device of 10."""
    house.config_file.write_text('[groups.lab]\nlimit = "4GiB"\n')
    house.start()
    first, second = guest(house, "first", limit="2GiB", group="lab"), guest(house, "second", limit="2GiB", group="lab")
    third = guest(house, "third", limit="2GiB", group="lab/team")
    take(first, 2 * GIB)
    take(second, 2 * GIB)
    third.do("acquire", 2 * GIB)
    house.until("the third waits", lambda: queue(house))
    return first, second, third


def test_the_third_waits_for_the_group_though_the_device_has_room_then_goes_on(house: House) -> None:
    first, _, third = a_full_lab(house)
    (entry,) = queue(house)
    assert (entry.container_name, entry.group, entry.full_group, entry.obstacle) == (
        "third",
        "lab/team",
        "lab",
        "group",
    )
    assert entry.goes_on == (
        "when group lab has room for 2GiB (0B now; GPU 0 has 6GiB); the end of first or second is enough"
    )
    with house.client() as client:
        snapshot = client.snapshot()
    assert [container.group for container in snapshot.containers] == ["lab", "lab", "lab/team"]
    assert snapshot.queue[0].full_group == "lab"
    (lab, team) = snapshot.groups
    assert (lab.name, lab.containers, lab.devices[0].waiting) == ("lab", ("first", "second", "third"), 1)
    assert (team.name, team.containers, team.devices[0].limit_bytes) == ("lab/team", ("third",), None)
    assert figures(house, "lab") == (4 * GIB, "configuration", 4 * GIB, False)
    take(guest(house, "outside", limit="6GiB"), 6 * GIB)
    first.kill()
    assert third.do("answer")["type"] == "GRANTED"
    (suspended,) = house.records("decision.suspended")
    assert suspended["group"] == "lab"
    assert "group lab has no room" in suspended["msg"]


def test_a_limit_raised_live_lets_go_on_what_waits_within_100_ms(house: House) -> None:
    _, _, third = a_full_lab(house)
    with house.client() as client:
        began = time.monotonic()
        change = client.group_set("lab", 6 * GIB)
        assert third.do("answer")["type"] == "GRANTED"
        took_s = time.monotonic() - began
    print(f"resumed {took_s * 1e3:.1f} ms after the command was sent")
    assert took_s < 0.1
    (device,) = change.devices
    assert (device.old_limit_bytes, device.new_limit_bytes) == (4 * GIB, 6 * GIB)
    (record,) = house.records("group.limits")
    assert record["source"] == "command"
    assert record["by_uid"] == 0
    (limit,) = record["limits"]
    assert (limit["group"], limit["old_limit_bytes"], limit["limit_bytes"]) == ("lab", 4 * GIB, 6 * GIB)
    assert record["msg"] == "limits of groups: lab 4GiB -> 6GiB on GPU 0"


def test_a_restart_keeps_groups_and_those_that_wait_for_them(house: House) -> None:
    first, _, third = a_full_lab(house)
    set_group(house, "lab/team", GIB + GIB // 2)  # above it: the request of 2 GiB can never be granted
    assert third.do("answer")["type"] == "DENIED"
    third.do("acquire", GIB)
    house.until("the third waits again", lambda: queue(house))
    arrived_ns = house.until("it is written", lambda: house.records("decision.suspended")[1:])[0]["mono_ns"]
    before = (figures(house, "lab"), figures(house, "lab/team"), group(house, "lab").containers)
    house.stop()
    house.start()
    third.do("hello", "again", third.do("instance"))
    third.do("acquire", GIB, "again", AGAIN, arrived_ns)
    house.until("it waits after the restart", lambda: queue(house))
    assert (figures(house, "lab"), figures(house, "lab/team"), group(house, "lab").containers) == before
    assert queue(house)[0].full_group == "lab"
    start = house.records("daemon.start")[-1]
    assert {limit["group"]: limit["limit_bytes"] for limit in start["limits"]} == {
        "lab": 4 * GIB,
        "lab/team": GIB + GIB // 2,
    }
    first.kill()
    assert third.do("answer", "again")["type"] == "GRANTED"


def test_lowered_below_what_is_held_the_group_is_over_and_gets_nothing_more(house: House) -> None:
    first, second, third = a_full_lab(house)
    set_group(house, "lab", 3 * GIB)
    assert figures(house, "lab") == (3 * GIB, "command", 4 * GIB, True)
    assert queue(house)[0].full_group == "lab"
    first.kill()
    house.until("the group is under", lambda: not figures(house, "lab")[3])
    assert third.do("answer", "first", 0.3)["type"] is None, "2 of 3 are held, and it wants 2"
    second.kill()
    assert third.do("answer")["type"] == "GRANTED"
    with house.client() as client:
        client.group_remove("lab")
    assert figures(house, "lab")[:2] == (4 * GIB, "configuration")
    with house.client() as client, pytest.raises(ConvgpuError, match="group lab has no limit set by command"):
        client.group_remove("lab")


def test_none_by_command_wins_over_what_is_configured(house: House) -> None:
    _, _, third = a_full_lab(house)
    set_group(house, "lab", None)
    assert third.do("answer")["type"] == "GRANTED"
    assert figures(house, "lab")[:2] == (None, "command")
    house.stop()
    house.start()
    assert figures(house, "lab")[:2] == (None, "command")


def test_a_reload_changes_groups_or_nothing(house: House) -> None:
    _, _, third = a_full_lab(house)
    house.config_file.write_text('[groups.lab]\nlimit = "lots"\n')
    with house.client() as client, pytest.raises(ConfigError, match="limit: 'lots' is not a size"):
        client.config_reload()
    assert figures(house, "lab")[0] == 4 * GIB
    house.config_file.write_text('[groups.lab]\nlimit = "6GiB"\n[groups."lab/team"]\nlimit = "50%"\n')
    with house.client() as client:
        changed = client.config_reload().changed
    assert [(change.key, change.old, change.new) for change in changed] == [
        ("groups.lab.limit", "4GiB", "6GiB"),
        ("groups.lab/team.limit", None, "50%"),
    ]
    assert third.do("answer")["type"] == "GRANTED"
    assert figures(house, "lab/team")[0] == 5 * GIB, "a share of the GPU's memory"


def test_a_reload_that_could_lead_to_a_deadlock_is_rejected_whole(house: House) -> None:
    house.config_file.write_text('[groups.lab]\nlimit = "5GiB"\n')
    house.start()
    roomy = house.container("roomy", guarantee="0", group="lab")
    roomy_peer = house.peer(roomy)
    roomy_peer.do("hello")
    take(roomy_peer, 5 * GIB)
    with house.client() as client:
        assert client.limit_get("roomy").limit_bytes == 5 * GIB, "the default is all that its group may have"
        client.group_set("lab", 10 * GIB)
        client.limit_set("roomy", 6 * GIB, 0)
        client.group_set("lab", 5 * GIB)
    take(guest(house, "other", limit="6GiB"), 5 * GIB)
    with house.client() as client:
        with pytest.raises(QuotaRefusedError, match="wait for each other for ever"):
            client.group_set("lab", 10 * GIB)
        client.group_remove("lab")
    house.config_file.write_text('max_bypass = 3\n[groups.lab]\nlimit = "10GiB"\n')
    with house.client() as client, pytest.raises(QuotaRefusedError, match="wait for each other for ever"):
        client.config_reload()
    assert figures(house, "lab")[0] == 5 * GIB
    assert house.records("config.rejected")
    with house.client() as client:
        shown = {each.key: each.value for each in client.config_show().settings}
    assert shown["max_bypass"] == 64


def test_what_a_program_is_told_of_the_device_is_what_its_group_leaves_possible(house: House) -> None:
    house.config_file.write_text('[groups.lab]\nlimit = "4GiB"\n')
    house.start()
    peer = guest(house, "one", limit="4GiB", group="lab")
    set_group(house, "lab", 3 * GIB)
    assert peer.do("query")["total"] == 3 * GIB
    assert peer.do("limits") == [3 * GIB]
    house.stop()
    house.start()
    assert peer.do("limits") == [3 * GIB]


@pytest.mark.parametrize("name", ["lab team", "lab/", "-"])
def test_a_bad_name_is_refused_and_the_label_named(house: House, name: str) -> None:
    house.start()
    peer = house.peer(house.container("one", limit="1GiB", group=name))
    assert peer.do("hello")["type"] != "WELCOME"
    assert any("label convgpu.group" in record["reason"] for record in house.records("reconcile"))
    with house.client() as client, pytest.raises(UsageError, match="is not the name of a group"):
        client.group_set(name, GIB)


def test_a_limit_above_the_groups_is_refused_before_there_is_a_container(house: House) -> None:
    house.config_file.write_text('group_without_limit = "refuse"\n[groups.lab]\nlimit = "4GiB"\n')
    house.start()
    with house.client() as client:
        client.check_start(4 * GIB, None, "lab/team")
        with pytest.raises(QuotaRefusedError, match="5GiB is more than the 4GiB that group lab may have"):
            client.check_start(5 * GIB, None, "lab/team")
        with pytest.raises(QuotaRefusedError, match="group lap has no limit, and group_without_limit is 'refuse'"):
            client.check_start(GIB, None, "lap")
    peer = house.peer(house.container("one", limit="1GiB", group="lap"))
    assert peer.do("hello")["reason"] == UNKNOWN


def test_a_label_of_a_group_alone_is_enough_to_be_guarded(house: House) -> None:
    house.config_file.write_text('default_limit = "8GiB"\n[groups.lab]\nlimit = "4GiB"\n')
    house.start()
    peer = house.peer(house.container("one", group="lab"))
    assert peer.do("hello")["type"] == "WELCOME"
    with house.client() as client:
        (info,) = client.limit_list()
    assert (info.source, info.limit_bytes, info.guarantee_bytes) == ("default", 4 * GIB, 4 * GIB)


def of_project(house: House, name: str, project: str, **labels: str) -> ContainerId:
    """A container as compose makes it."""
    identifier = house.container(name, announce=False, limit="2GiB", guarantee="0", **labels)
    facts = house.docker.known[identifier]
    house.docker.add(replace(facts, labels={**facts.labels, "com.docker.compose.project": project}))
    return identifier


def test_a_compose_project_is_a_group_if_the_configuration_says_so(house: House) -> None:
    house.start()
    before = house.peer(of_project(house, "before", "shop"))
    assert before.do("hello")["type"] == "WELCOME"
    house.config_file.write_text('group_by_compose_project = true\n[groups.shop]\nlimit = "3GiB"\n')
    with house.client() as client:
        client.config_reload()
    for name, labels in (("after", {}), ("named", {"group": "lab"})):
        assert house.peer(of_project(house, name, "shop", **labels)).do("hello")["type"] == "WELCOME"
    groups = {"before": None, "after": "shop", "named": "lab"}

    def found() -> dict[str, str | None]:
        with house.client() as client:
            return {container.name: container.group for container in client.snapshot().containers}

    assert found() == groups
    house.config_file.write_text('[groups.shop]\nlimit = "3GiB"\n')
    house.stop()
    house.start()
    assert found() == groups, "as long as they run they are where they began"


def test_limits_of_single_devices(house: House) -> None:
    house.nvml = FakeGpuSource((make_gpu(0), make_gpu(1)))
    house.config_file.write_text('[groups.lab]\nlimit = "4GiB"\n[groups.lab.device.1]\nlimit = "none"\n')
    house.start()
    assert [usage.limit_bytes for usage in group(house, "lab").devices] == [4 * GIB, None]
    set_group(house, "lab", 2 * GIB, "1")
    assert [(usage.limit_bytes, usage.source) for usage in group(house, "lab").devices] == [
        (4 * GIB, "configuration"),
        (2 * GIB, "command"),
    ]
    with house.client() as client:
        with pytest.raises(UsageError, match="there is no GPU '7'"):
            client.group_set("lab", GIB, "7")
        with pytest.raises(UsageError, match="there is no group lap"):
            client.group_get("lap")
    house.config_file.write_text('[groups.lab.device.5]\nlimit = "1GiB"\n')
    with house.client() as client, pytest.raises(ConfigError, match="there is no GPU '5'"):
        client.config_reload()
