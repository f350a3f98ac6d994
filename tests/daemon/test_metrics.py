# SPDX-License-Identifier: Apache-2.0
"""The metrics of a whole daemon, scraped as Prometheus does."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from house import House

from convgpu.core.listen import Address
from convgpu.core.units import GIB, MIB

pytestmark = pytest.mark.root


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def scrape(address: Address) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture
def address(house: House) -> Address:
    house.settings["metrics_listen"] = Address("127.0.0.1", free_port())
    return house.settings["metrics_listen"]


def test_a_container_is_there_with_its_decisions_and_gone_with_its_end(house: House, address: Address) -> None:
    house.start()
    container = house.container("alpha", limit="4GiB")
    peer = house.peer(container)
    peer.do("hello")
    for size_bytes, answer in ((512 * MIB, "GRANTED"), (5 * GIB, "DENIED")):
        peer.do("acquire", size_bytes)
        assert peer.do("answer")["type"] == answer
    gpu = house.nvml.gpus()[0].uuid
    text = house.until(
        "it is served",
        lambda: (
            found
            if f'convgpu_container_memory_limit_bytes{{container="alpha",gpu_uuid="{gpu}"}} 4.294967296e+09\n'
            in (found := scrape(address))
            else None
        ),
    )
    assert f'convgpu_container_requests_denied_total{{container="alpha",gpu_uuid="{gpu}"}} 1.0\n' in text
    assert 'convgpu_decisions_total{outcome="granted",reason=""} 1.0\n' in text
    assert 'convgpu_decisions_total{outcome="denied",reason="limit"} 1.0\n' in text
    house.docker.end(container)
    house.until("no series of it is left", lambda: 'container="alpha"' not in scrape(address))
    assert 'convgpu_decisions_total{outcome="granted",reason=""} 1.0\n' in scrape(address)


def test_the_head_of_the_log_can_be_kept_by_who_scrapes(house: House, address: Address) -> None:
    house.start()
    text = scrape(address)
    prefix = next(line for line in text.splitlines() if line.startswith("convgpu_audit_head_prefix "))
    digits = f"{int(float(prefix.split()[1])):012x}"
    assert any(line.count(f'"hash":"{digits}') for line in house.log.read_text().splitlines())


def test_it_ends_with_the_daemon(house: House, address: Address) -> None:
    house.start()
    assert "convgpu_daemon_info" in scrape(address)
    house.stop()
    with pytest.raises(urllib.error.URLError):
        scrape(address)
    house.start()
    assert "convgpu_daemon_info" in scrape(address)
