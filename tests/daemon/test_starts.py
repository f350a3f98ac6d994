# SPDX-License-Identifier: Apache-2.0
"""What the daemon makes ready before a container starts."""

from __future__ import annotations

import pytest
from house import House

from convgpu.api import PrepareRunArguments
from convgpu.errors import QuotaRefusedError, UsageError


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
    with open(preload) as file:  # noqa: PTH123
        assert file.read() == "/usr/local/lib/convgpu/libconvgpu.so\n/lib/own.so\n"
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
