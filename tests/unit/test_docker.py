# SPDX-License-Identifier: Apache-2.0
"""What ConvGPU picks from the engine's answers."""

from __future__ import annotations

from typing import Any

import pytest

from convgpu.sources.docker import ContainerEvent, event_of, facts_of

ID = "0123456789abcdef" * 4


def inspected(**host: Any) -> dict[str, Any]:
    return {
        "Id": ID,
        "Name": "/trainer",
        "Created": "2026-11-22T10:11:12.123456789Z",
        "Config": {"Image": "lab/trainer:2", "Labels": {"convgpu.limit": "2GiB"}},
        "State": {"Status": "running", "Pid": 4711},
        "HostConfig": host,
        "Mounts": [],
    }


def test_the_plain_facts() -> None:
    facts = facts_of(inspected())
    assert (facts.container_id, facts.name, facts.image) == (ID, "trainer", "lab/trainer:2")
    assert (facts.state, facts.pid, facts.labels) == ("running", 4711, {"convgpu.limit": "2GiB"})
    assert facts.device_minors is None
    assert facts.device_uuids == frozenset()


def test_creation_time_keeps_its_nanoseconds() -> None:
    first = facts_of(inspected()).created_ns
    later = facts_of(inspected() | {"Created": "2026-11-22T10:11:12.123456790Z"}).created_ns
    assert later - first == 1
    assert first % 1_000_000_000 == 123456789


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:00:01Z", 1), ("1970-01-01T02:00:01.5+02:00", 1), ("1970-01-01T00:00:01.000000001Z", 1)],
)
def test_creation_time_in_every_form_that_engines_write(text: str, seconds: int) -> None:
    assert facts_of(inspected() | {"Created": text}).created_ns // 1_000_000_000 == seconds


def test_devices_by_file_by_mount_and_by_request() -> None:
    by_file = inspected(Devices=[{"PathOnHost": "/dev/nvidia1"}, {"PathOnHost": "/dev/nvidia-uvm"}])
    assert facts_of(by_file).device_minors == frozenset({1})
    by_mount = inspected() | {"Mounts": [{"Destination": "/dev/nvidia0"}, {"Destination": "/dev/nvidiactl"}]}
    assert facts_of(by_mount).device_minors == frozenset({0})
    by_request = inspected(DeviceRequests=[{"DeviceIDs": ["GPU-aa", "2"]}])
    assert facts_of(by_request).device_uuids == frozenset({"GPU-aa"})
    assert facts_of(by_request).device_minors == frozenset({2})
    all_devices = inspected(DeviceRequests=[{"Count": -1, "DeviceIDs": None}])
    assert facts_of(all_devices).device_minors is None


def test_the_daemon_that_a_container_belongs_to_shows_in_its_mounts() -> None:
    assert facts_of(inspected()).client_dir is None
    mounts = [{"Source": "/run/other/client", "Destination": "/run/convgpu"}]
    assert facts_of(inspected() | {"Mounts": mounts}).client_dir == "/run/other/client"


def test_events() -> None:
    raw = {
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": ID, "Attributes": {"exitCode": "137"}},
        "timeNano": 5,
    }
    assert event_of(raw) == ContainerEvent(container_id=ID, action="die", time_ns=5, exit_code=137)
    assert event_of(raw | {"Action": "exec_start: sh"}) is None
    assert event_of(raw | {"Type": "network"}) is None


def test_a_container_that_podman_removed_is_gone_as_one_that_docker_destroyed() -> None:
    attributes = {"containerExitCode": "0", "convgpu.limit": "2GiB", "name": "recorded", "podId": ""}
    raw = {"Type": "container", "Action": "remove", "Actor": {"ID": ID, "Attributes": attributes}, "timeNano": 5}
    assert event_of(raw) == ContainerEvent(container_id=ID, action="destroy", time_ns=5)
