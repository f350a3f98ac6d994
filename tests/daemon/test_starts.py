# SPDX-License-Identifier: Apache-2.0
"""What the daemon makes ready before a container starts."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from house import House

from convgpu.core.starting import PrepareRunArguments
from convgpu.core.units import GIB
from convgpu.errors import QuotaRefusedError, UsageError
from convgpu.oci.shim import read_settings

pytestmark = pytest.mark.root


def asked(*docker_arguments: str, **labels: str) -> PrepareRunArguments:
    return PrepareRunArguments(
        labels={f"convgpu.{name}": text for name, text in labels.items()}, docker_arguments=docker_arguments
    )


def test_what_a_container_mounts_is_there_and_lies_where_a_reboot_leaves_it(house: House) -> None:
    house.images.add("mine", preload=b"/lib/own.so\n")
    house.start()
    with house.client() as client:
        command = client.prepare_run(asked("--rm", "mine", limit="1GiB")).command
    mounts = [dict(part.split("=") for part in word.split(",")[:-1]) for word in command if word.startswith("type=")]
    sources = {mount["target"]: mount["source"] for mount in mounts}
    preload, client_dir = sources["/etc/ld.so.preload"], sources["/run/convgpu"]
    assert preload.startswith(f"{house.config.state_dir}/")
    assert client_dir == f"{house.config.state_dir}/client"
    assert Path(preload).read_text() == "/usr/local/lib/convgpu/libconvgpu.so\n/lib/own.so\n"
    assert house.config.paths.client_socket.is_socket()
    assert command[-2:] == ("--rm", "mine")


def test_an_image_is_looked_into_once(house: House) -> None:
    image_id = house.images.add("mine")
    house.start()
    with house.client() as client:
        first, second = (client.prepare_run(asked("mine", limit="1GiB")) for _ in range(2))
    assert first == second
    assert house.images.looks == [image_id]


def test_what_cannot_start_is_refused_with_the_reason(house: House) -> None:
    house.images.add("mine", {"convgpu.guarantee": "2GiB"})
    house.images.add("alpine", musl=True)
    house.start()
    with house.client() as client:
        with pytest.raises(QuotaRefusedError, match="11GiB"):
            client.prepare_run(asked("mine", limit="11GiB"))
        with pytest.raises(UsageError, match=r"convgpu\.guarantee: 2GiB is more than the limit 1GiB"):
            client.prepare_run(asked("mine", limit="1GiB"))
        with pytest.raises(UsageError, match="musl"):
            client.prepare_run(asked("alpine", limit="1GiB"))
        with pytest.raises(UsageError, match=r"convgpu\.limit"):
            client.prepare_run(asked("mine", priority="3"))


class Created:
    """A container that Docker is about to create, as the runtime shim tells of it."""

    def __init__(self, folder: Path, identifier: str, **labels: str) -> None:
        self.identifier = identifier
        self.labels = {f"convgpu.{name}": text for name, text in labels.items()}
        self.folder = folder / identifier
        self.folder.mkdir()
        record = {
            "ID": identifier,
            "Name": "/created",
            "Created": "2026-01-01T00:00:00.000000001Z",
            "Config": {"Image": "mine", "Labels": self.labels},
        }
        (self.folder / "config.v2.json").write_text(json.dumps(record))
        (self.folder / "hostconfig.json").write_text("{}")

    def ask(self, house: House, *, by_docker: bool = True) -> dict[str, Any]:
        """Ask as the shim does; the answer is the whole line. Other engines than Docker keep no such folder."""
        arguments = {
            "container": self.identifier,
            "labels": self.labels,
            "library_target": "/.convgpu/libconvgpu.so",
            "engine_folder": str(self.folder) if by_docker else None,
            "preload": "/lib/\xe9.so",
        }
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(house.config.paths.control_socket))
            connection.sendall(json.dumps({"id": 1, "op": "prepare_create", "args": arguments}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer


def test_a_container_that_is_created_gets_files_with_its_own_preload_kept(house: House, tmp_path: Path) -> None:
    house.start()
    files = Created(tmp_path, "a" * 64, limit="1GiB").ask(house)["ok"]
    assert Path(files["preload"]).read_bytes() == b"/.convgpu/libconvgpu.so\n/lib/\xe9.so\n"
    assert files["client_dir"] == str(house.config.paths.client_dir)
    assert Path(files["preload"]).is_relative_to(house.config.state_dir)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"limit": "much"}, "convgpu.limit"),
        ({"limit": "11GiB"}, "11GiB"),
        ({"limit": "1GiB", "admit": "later"}, "convgpu.admit"),
    ],
)
def test_a_container_that_may_not_be_is_refused(
    house: House, tmp_path: Path, labels: dict[str, str], said: str
) -> None:
    house.start()
    assert said in Created(tmp_path, "a" * 64, **labels).ask(house)["error"]["message"]


def test_a_creation_waits_for_its_guarantee_where_the_label_says_so(house: House, tmp_path: Path) -> None:
    house.start()
    holder = house.container("holder", limit="6GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
    created = Created(tmp_path, "a" * 64, limit="6GiB", admit="wait")
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(created.ask(house)))
    asking.start()
    house.until("it waits", lambda: house.records("start.suspended"))
    assert answers == []
    house.docker.end(holder)
    asking.join(10)
    assert "ok" in answers[0]
    with house.client() as client:
        assert [info.name for info in client.limit_list()] == ["created"]


def test_who_gives_up_a_creation_waits_no_more(house: House, tmp_path: Path) -> None:
    house.start()
    house.container("holder", limit="6GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
    created = Created(tmp_path, "a" * 64, limit="6GiB", admit="wait")
    arguments = {"container": created.identifier, "labels": created.labels, "engine_folder": str(created.folder)}
    request = {"id": 1, "op": "prepare_create", "args": {**arguments, "library_target": "/x"}}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(house.config.paths.control_socket))
        connection.sendall(json.dumps(request).encode() + b"\n")
        house.until("it waits", lambda: house.records("start.suspended"))
    with house.client() as client:
        house.until("it waits no more", lambda: [info.name for info in client.limit_list()] == ["holder"])


def test_annotations_that_an_engine_does_not_tell_hold_until_it_removes_the_container(
    house: House, tmp_path: Path
) -> None:
    house.start()
    container = house.container("podman's", announce=False)
    assert "ok" in Created(tmp_path, container, limit="2GiB").ask(house, by_docker=False)
    house.stop()
    house.start()
    house.docker.tell(container, "start")
    with house.client() as client:
        house.until("it is known", client.limit_list)
        (info,) = client.limit_list()
        assert (info.limit_bytes, info.source) == (2 * GIB, "label")
    house.docker.end(container)
    house.docker.remove(container)
    state = house.config.state_dir / "state.json"
    house.until("nothing is kept of it", lambda: container not in state.read_text())


def test_what_the_shim_goes_by_is_published_at_start_and_at_every_reload(house: House) -> None:
    house.config_file.write_text('runtime_next = "crun"\n')
    house.settings = {}
    house.start()
    assert read_settings(str(house.config.state_dir))["next"] == "crun"
    house.config_file.write_text('runtime_next = "/opt/nvidia-container-runtime"\nruntime_unlabelled = "pass"\n')
    with house.client() as client:
        client.config_reload()
    published = read_settings(str(house.config.state_dir))
    assert (published["next"], published["unlabelled"]) == ("/opt/nvidia-container-runtime", "pass")
    assert published["control_socket"] == str(house.config.paths.control_socket)
