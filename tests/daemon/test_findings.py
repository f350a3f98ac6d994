# SPDX-License-Identifier: Apache-2.0
"""What a whole daemon finds when ledger, witness and NVML differ, and what it does about it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from house import House, PeerProcess

from convgpu.core.identity import ContainerId
from convgpu.core.status import ContainerStatus, FindingStatus
from convgpu.core.units import GIB, MIB
from convgpu.testing.gpus import make_gpu
from convgpu.testing.witness import FakeWitness

pytestmark = pytest.mark.root

GPU = make_gpu().uuid
NOWAIT = 1
WITHIN_S = 2.0
"""From the cause to the record, with the default interval."""
LONG_ENOUGH_S = 1.5
"""Longer than anything has to last."""


@pytest.fixture
def witnessed(house: House) -> House:
    house.witness = FakeWitness()
    house.start()
    house.until("it watches", lambda: house.service is not None and house.service.observer.running)
    return house


def wrapped(house: House, name: str, size_bytes: int, **labels: str) -> PeerProcess:
    """Start a container with a wrapper that holds so much, on which all three agree."""
    peer = house.peer(house.container(name, **{"limit": "8GiB", "guarantee": "0", **labels}))
    peer.do("hello")
    peer.do("acquire", size_bytes)
    assert peer.do("answer")["type"] == "GRANTED"
    if house.witness is not None:
        house.witness.alloc(peer.process.pid, size_bytes)
    show(house, {peer: size_bytes})
    peer.do("settle", size_bytes)
    return peer


def show(house: House, held: dict[PeerProcess, int]) -> None:
    """Let NVML list processes with so much."""
    before = house.nvml.process_bytes.get(GPU, {})
    house.nvml.process_bytes[GPU] = before | {peer.process.pid: size for peer, size in held.items()}


def raised(house: House) -> dict[str, Any]:
    record: dict[str, Any] = house.until("it is found", lambda: house.records("finding.raised"))[-1]
    return record


def container(house: House, name: str) -> ContainerStatus:
    with house.client() as client:
        return next(each for each in client.snapshot().containers if each.name == name)


def found(house: House, name: str) -> FindingStatus:
    (finding,) = container(house, name).findings
    return finding


def test_a_container_without_the_wrapper_is_found_within_two_seconds(house: House) -> None:
    house.settings["interval_s"] = 1.0
    house.start()
    peer = house.peer(house.container("bare", limit="1GiB"))
    began = time.monotonic()
    show(house, {peer: 3 * GIB})
    record = raised(house)
    assert time.monotonic() - began < WITHIN_S
    assert (record["finding"], record["container"]["name"], record["action"]) == ("unwrapped", "bare", "log")
    assert (record["used_bytes"], record["witness_bytes"], record["nvml_bytes"]) == (None, None, 3 * GIB)
    (process,) = record["processes"]
    assert process["pid"] == peer.process.pid
    assert process["comm"].startswith("python")
    finding = found(house, "bare")
    assert (finding.kind, finding.pids, finding.nvml_bytes) == ("unwrapped", (peer.process.pid,), 3 * GIB)


def test_a_finding_ends_with_its_cause_and_is_written_once(house: House) -> None:
    house.start()
    peer = house.peer(house.container("bare", limit="1GiB"))
    show(house, {peer: 3 * GIB})
    raised(house)
    time.sleep(LONG_ENOUGH_S)
    show(house, {peer: 0})
    (cleared,) = house.until("it is over", lambda: house.records("finding.cleared"))
    assert (cleared["finding"], cleared["reason"]) == ("unwrapped", "the figures agree again")
    assert cleared["lasted_ns"] >= LONG_ENOUGH_S * 1e9
    assert len(house.records("finding.raised")) == 1
    assert container(house, "bare").findings == ()


def test_a_finding_ends_with_its_container(house: House) -> None:
    house.start()
    identifier = house.container("bare", limit="1GiB")
    peer = house.peer(identifier)
    show(house, {peer: 3 * GIB})
    raised(house)
    house.docker.end(identifier)
    (cleared,) = house.until("it is over", lambda: house.records("finding.cleared"))
    assert (cleared["reason"], cleared["container"]["name"]) == ("the container has ended", "bare")


def test_more_than_the_wrapper_said_is_a_bypass(witnessed: House) -> None:
    peer = wrapped(witnessed, "alpha", GIB)
    time.sleep(0.3)
    assert witnessed.witness is not None
    witnessed.witness.alloc(peer.process.pid, 2 * GIB)
    show(witnessed, {peer: 3 * GIB})
    record = raised(witnessed)
    assert record["finding"] == "bypass"
    assert (record["used_bytes"], record["witness_bytes"], record["nvml_bytes"]) == (GIB, 3 * GIB, 3 * GIB)
    assert found(witnessed, "alpha").kind == "bypass"


def test_the_witness_is_enough_where_nvml_does_not_list_a_process_that_has_the_driver_open(
    witnessed: House, tmp_path: Path
) -> None:
    peer = witnessed.peer(witnessed.container("bare", limit="1GiB"))
    assert witnessed.witness is not None
    witnessed.witness.alloc(peer.process.pid, GIB)
    # Without an open driver file the memory is gone, whatever was counted: it ended with the file.
    assert raised(witnessed)["finding"] == "mismatch"
    peer.do("open_driver", str(tmp_path / "nvidiactl"))
    witnessed.until("it is", lambda: witnessed.records("finding.raised")[1:])
    assert raised(witnessed)["finding"] == "unwrapped"
    assert raised(witnessed)["nvml_bytes"] is None


def test_calls_in_flight_and_equal_figures_raise_nothing(witnessed: House) -> None:
    peer = wrapped(witnessed, "alpha", GIB)
    peer.do("acquire", 2 * GIB)
    assert peer.do("answer")["type"] == "GRANTED"
    peer.do("begin", 2 * GIB)
    assert witnessed.witness is not None
    witnessed.witness.alloc(peer.process.pid, 2 * GIB)
    show(witnessed, {peer: 3 * GIB})
    time.sleep(LONG_ENOUGH_S)  # as if it were stopped in the middle of the call
    assert witnessed.records("finding.raised") == []


def test_what_passes_before_it_has_lasted_raises_nothing(house: House) -> None:
    house.start()
    peer = wrapped(house, "alpha", GIB)
    for _ in range(5):
        show(house, {peer: 3 * GIB})
        time.sleep(0.25)
        show(house, {peer: GIB})
        time.sleep(0.25)
    assert house.records("finding.raised") == []


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("credit_bytes", 4 * GIB, "the page has 5GiB, the daemon granted 1GiB"),
        ("granted_bytes", 5 * GIB, "the page says that 5GiB were granted, the daemon granted 1GiB"),
        ("limit_bytes", 9 * GIB, "the daemon did not write what the page has as limit_bytes"),
        ("context_hint_bytes", 1, "the daemon did not write what the page has as context_hint_bytes"),
    ],
)
def test_a_page_that_its_owner_changed_is_found(house: House, field: str, value: int, reason: str) -> None:
    house.settings["interval_s"] = 1.0
    house.start()
    peer = wrapped(house, "alpha", GIB)
    began = time.monotonic()
    peer.do("write", field, value)
    record = raised(house)
    assert time.monotonic() - began < WITHIN_S
    assert (record["finding"], record["reason"]) == ("tampered", reason)


def test_a_process_that_gives_itself_leave_to_go_on_without_a_daemon_is_found(house: House) -> None:
    house.start()
    wrapped(house, "alpha", GIB).do("write_header", "fail_open", 1)
    assert "fail_open" in raised(house)["reason"]


def test_a_page_that_was_changed_once_is_not_believed_again(house: House) -> None:
    house.start()
    peer = wrapped(house, "alpha", GIB)
    peer.do("write", "credit_bytes", 4 * GIB)
    raised(house)
    peer.do("write", "credit_bytes", 0)
    time.sleep(LONG_ENOUGH_S)
    assert found(house, "alpha").kind == "tampered"
    peer.kill()
    (cleared,) = house.until("it is over", lambda: house.records("finding.cleared"))
    assert cleared["reason"] == "its processes have ended"


def test_bytes_that_leave_the_page_without_a_free_are_tampering_and_with_one_they_are_not(witnessed: House) -> None:
    honest = wrapped(witnessed, "honest", GIB)
    liar = wrapped(witnessed, "liar", 2 * GIB)
    time.sleep(0.3)
    assert witnessed.witness is not None
    witnessed.witness.free(honest.process.pid, GIB)
    show(witnessed, {honest: 0})
    honest.do("free", GIB)
    liar.do("free", GIB)  # it becomes credit again, and the driver knows nothing of it
    record = raised(witnessed)
    assert (record["finding"], record["container"]["name"]) == ("tampered", "liar")
    assert record["reason"] == "what the page has in use fell by 1GiB, and nothing was freed"
    assert (record["used_bytes"], record["witness_bytes"]) == (GIB, 2 * GIB)
    assert len(witnessed.records("finding.raised")) == 1


def test_credit_that_nobody_granted_is_not_handed_to_others(house: House) -> None:
    house.start()
    forger = wrapped(house, "forger", 6 * GIB)
    other = house.peer(house.container("other", limit="8GiB", guarantee="0"))
    other.do("hello")
    forger.do("forge_credit", 3 * GIB)  # less than it holds: by itself it could be true
    other.do("acquire", 6 * GIB, "first", NOWAIT)
    assert other.do("answer")["type"] == "DENIED"
    (record,) = house.records("finding.raised")
    assert (record["finding"], record["container"]["name"]) == ("tampered", "forger")
    with house.client() as client:
        assert client.snapshot().gpus[0].assigned_bytes == 6 * GIB


def test_what_others_hold_is_a_finding_when_containers_cannot_have_what_they_are_assigned(house: House) -> None:
    house.start()
    wrapped(house, "alpha", 6 * GIB)
    outsider = house.peer(None)
    show(house, {outsider: 2 * GIB})
    house.until("the capacity follows", lambda: house.records("capacity.changed"))
    time.sleep(LONG_ENOUGH_S)
    assert house.records("finding.raised") == []  # 8 GiB are left, and 6 assigned
    show(house, {outsider: 5 * GIB})
    record = raised(house)
    assert (record["finding"], "container" in record) == ("external", False)
    assert (record["assigned_bytes"], record["capacity_bytes"], record["external_bytes"]) == (6 * GIB, 5 * GIB, 5 * GIB)
    assert [process["pid"] for process in record["processes"]] == [outsider.process.pid]
    with house.client() as client:
        (finding,) = client.snapshot().gpus[0].findings
    assert (finding.kind, finding.container_id) == ("external", None)
    show(house, {outsider: 0})
    (cleared,) = house.until("it is over", lambda: house.records("finding.cleared"))
    assert cleared["reason"] == "there is enough again"


def test_what_went_past_the_wrapper_is_not_promised_to_others(house: House) -> None:
    house.start()
    peer = wrapped(house, "alpha", GIB)
    show(house, {peer: 4 * GIB})
    house.until("the capacity follows", lambda: house.records("capacity.changed"))
    with house.client() as client:
        (gpu,) = client.snapshot().gpus
    assert (gpu.capacity_bytes, gpu.external_bytes) == (7 * GIB, 3 * GIB)


def bare(house: House, name: str = "bare") -> ContainerId:
    """Start a container whose process holds memory without the wrapper."""
    identifier = house.container(name, limit="1GiB")
    show(house, {house.peer(identifier): 3 * GIB})
    return identifier


def acted(house: House, count: int = 1) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = house.until(
        "something is done", lambda: house.records("finding.action")[count - 1 :] and house.records("finding.action")
    )
    return records


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_the_container_concerned_is_halted_once_and_no_other(house: House, verb: str) -> None:
    house.settings["on_unwrapped"] = verb
    house.start()
    neighbour = wrapped(house, "neighbour", GIB)
    identifier = bare(house)
    (record,) = acted(house)
    assert (record["action"], record["outcome"], record["container"]["id"]) == (verb, "done", identifier)
    time.sleep(LONG_ENOUGH_S)
    assert house.docker.halted == [(verb, identifier)]
    assert neighbour.do("page")["used"] == GIB


def test_a_restarted_daemon_does_not_act_again(house: House) -> None:
    house.settings["on_unwrapped"] = "pause"
    house.start()
    identifier = bare(house)
    acted(house)
    house.docker.unpause(identifier)  # somebody looked at it and let it go on
    house.stop()
    house.start()
    (_, again) = acted(house, 2)
    assert (again["action"], again["outcome"]) == ("pause", "skipped")
    assert house.docker.halted == [("pause", identifier)]
    assert found(house, "bare").kind == "unwrapped"


def test_an_action_that_fails_is_written_down(house: House) -> None:
    house.settings["on_unwrapped"] = "pause"
    house.docker.refuse = "cannot pause: the freezer is not there"
    house.start()
    bare(house)
    (record,) = acted(house)
    assert (record["outcome"], record["reason"]) == ("failed", "cannot pause: the freezer is not there")


def test_a_command_is_told_of_the_finding(house: House, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "tell"
    script.write_text(
        f'#!/bin/sh\ncat > {told}.stdin\nprintf %s "$CONVGPU_FINDING" > {told}.new\nmv {told}.new {told}\n'
    )
    script.chmod(0o755)
    house.settings |= {"on_unwrapped": "notify", "notify_command": (str(script), "an argument")}
    house.start()
    identifier = bare(house)
    house.until("it was told", told.exists)
    finding = json.loads(told.read_text())
    assert finding == json.loads(Path(f"{told}.stdin").read_text())
    assert (finding["kind"], finding["container_id"], finding["nvml_bytes"]) == ("unwrapped", identifier, 3 * GIB)
    assert acted(house)[0]["outcome"] == "done"
    assert house.docker.halted == []


def test_a_command_that_cannot_be_run_is_written_down(house: House, tmp_path: Path) -> None:
    house.settings |= {"on_unwrapped": "notify", "notify_command": (str(tmp_path / "nothing"),)}
    house.start()
    bare(house)
    (record,) = acted(house)
    assert record["outcome"] == "failed"
    assert "No such file" in record["reason"]


def test_what_is_to_be_done_can_be_changed_while_it_runs(house: House) -> None:
    house.start()
    bare(house, "first")
    raised(house)
    house.config_file.write_text('on_unwrapped = "pause"\n')
    with house.client() as client:
        client.config_reload()
    second = bare(house, "second")
    acted(house)
    assert house.docker.halted == [("pause", second)]  # the first was found before, and only written down


def test_containers_without_any_setting_are_looked_at_where_that_is_configured(house: House) -> None:
    house.start()
    peer = house.peer(house.container("stranger"))
    show(house, {peer: 3 * GIB})
    time.sleep(LONG_ENOUGH_S)
    assert house.records("finding.raised") == []
    house.config_file.write_text('watch = "all"\n')
    with house.client() as client:
        client.config_reload()
    record = raised(house)
    assert (record["finding"], record["container"]["name"]) == ("unwrapped", "stranger")
    shown = container(house, "stranger")
    assert (shown.guarded, shown.devices[0].limit_bytes, shown.devices[0].nvml_bytes) == (False, None, 3 * GIB)
    peer.kill()
    show(house, {peer: 0})
    house.until("it is over", lambda: house.records("finding.cleared"))


def test_a_container_whose_limit_cannot_be_given_is_looked_at_all_the_same(house: House) -> None:
    house.start()
    peer = house.peer(house.container("typo", limit="lots"))
    show(house, {peer: 3 * GIB})
    assert raised(house)["container"]["name"] == "typo"


def test_containers_of_another_daemon_are_not_strangers(house: House, tmp_path: Path) -> None:
    house.settings["watch"] = "all"
    house.start()
    peer = house.peer(house.container("theirs", client_dir=tmp_path / "other", limit="1GiB"))
    show(house, {peer: 3 * GIB})
    time.sleep(LONG_ENOUGH_S)
    assert house.records("finding.raised") == []


def test_what_cannot_be_decided_is_said(house: House) -> None:
    house.start()
    peer = wrapped(house, "alpha", GIB)
    with house.client() as client:
        (sentence,) = client.snapshot().undecided
        assert sentence.startswith("no witness (off by configuration)")
        peer.do("estimate")
        house.nvml.process_bytes[GPU] = {peer.process.pid: None}
        no_witness, no_nvml, estimated = client.snapshot().undecided
    assert no_nvml.startswith("NVML gives no figures for the processes on GPU 0: nothing")
    assert estimated.startswith("the memory of one process is estimated")
    house.until("it is written", lambda: [r for r in house.records("reconcile") if no_nvml in r.get("reason", "")])
    assert no_witness == sentence


def test_an_estimate_is_no_bypass(house: House) -> None:
    house.start()
    peer = wrapped(house, "alpha", GIB)
    peer.do("estimate")
    show(house, {peer: GIB + 300 * MIB})
    time.sleep(LONG_ENOUGH_S)
    assert house.records("finding.raised") == []
