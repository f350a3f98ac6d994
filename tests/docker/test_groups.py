# SPDX-License-Identifier: Apache-2.0
"""Three containers share a group on one simulated GPU: real containers, real waiting, a limit raised while they run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse, pytest.mark.bpf]

CONTEXT_BYTES = 512 * MIB
FILL = f"alloc={2 * GIB - CONTEXT_BYTES}"
RESUME_WITHIN_MS = 100


def in_group(name: str) -> tuple[str, ...]:
    return ("--group", name, "--guarantee", "0")


def group(command: Any, name: str) -> dict[str, Any]:
    done = command("convgpu", "group", "get", name, "--format", "json")
    assert done.returncode == 0, done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def set_group(command: Any, name: str, size: str) -> str:
    done = command("convgpu", "group", "set", name, size)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_third_waits_for_its_group_though_the_device_has_room_then_goes_on(stage: Stage, command: Any) -> None:
    assert set_group(command, "lab", "4GiB") == "lab: limit none -> 4GiB on GPU 0\n"
    first = stage.story("first", "2GiB", FILL, "wait-file=/stage/first-exit", "exit=0", options=in_group("lab"))
    second = stage.story("second", "2GiB", FILL, "hold=600", options=in_group("lab"))
    first.wait_for("alloc")
    second.wait_for("alloc")
    third = stage.story("third", "2GiB", FILL, "hold=600", options=in_group("lab/team"))
    suspended = stage.log().wait("decision.suspended", "third")
    assert suspended["group"] == "lab"
    assert suspended["free_bytes"] == 6 * GIB, "the device has room"
    outside = stage.story("outside", "2GiB", FILL, "hold=600")
    assert outside.wait_for("alloc")["code"] == "cudaSuccess"
    told = command("convgpu", "queue", "third").stdout
    assert "when group lab has room for" in " ".join(told.split())
    (usage,) = group(command, "lab")["devices"]
    assert (usage["assigned_bytes"], usage["used_bytes"], usage["waiting"]) == (4 * GIB, 4 * GIB, 1)
    assert group(command, "lab/team")["containers"] == ["third"]
    listed = command("convgpu", "ps").stdout.splitlines()
    assert "GROUP" in listed[0]
    assert any("third" in line and "lab/team" in line for line in listed)
    assert third.step("alloc") == {}
    stage.tell("first-exit")
    line = third.wait_for("alloc")
    assert line["code"] == "cudaSuccess"
    assert int(line["ms"]) - int(first.wait_for("exit")["ms"]) <= RESUME_WITHIN_MS
    assert command("convgpu", "group", "rm", "lab").returncode == 0


def test_a_limit_raised_live_resumes_a_waiter_within_100_ms(stage: Stage, command: Any) -> None:
    set_group(command, "lab", "3GiB")
    first = stage.story("first", "2GiB", FILL, "hold=600", options=in_group("lab"))
    first.wait_for("alloc")
    second = stage.story("second", "2GiB", FILL, "hold=600", options=in_group("lab"))
    stage.log().wait("decision.suspended", "second", 2 * GIB - CONTEXT_BYTES)
    log = stage.log()
    log.follow()
    set_group(command, "lab", "4GiB")
    resumed = log.wait("decision.resumed", "second")
    changed = [record for record in log.records if record["type"] == "group.limits"][-1]
    assert second.wait_for("alloc")["code"] == "cudaSuccess"
    took_ms = (resumed["mono_ns"] - changed["mono_ns"]) / 1e6
    print(f"resumed {took_ms:.2f} ms after the change")
    assert took_ms < RESUME_WITHIN_MS
    assert command("convgpu", "group", "rm", "lab").returncode == 0


def test_a_limit_above_that_of_the_group_or_a_bad_name_starts_nothing(stage: Stage, command: Any) -> None:
    set_group(command, "lab", "1GiB")
    refused = command("convgpu", "run", "--limit", "2GiB", "--group", "lab/team", "--", "--rm", "none/such")
    assert refused.returncode == 5
    assert "2GiB is more than the 1GiB that group lab may have" in refused.stderr
    wrong = command("convgpu", "run", "--limit", "1GiB", "--group", "la b", "--", "--rm", "none/such")
    assert wrong.returncode == 2
    assert "'la b' is not the name of a group" in wrong.stderr
    assert command("convgpu", "group", "rm", "lab").returncode == 0
