# SPDX-License-Identifier: Apache-2.0
"""Every change of what a process holds is in the log, so that a recording can be played again."""

from __future__ import annotations

from typing import Any

import pytest
from house import House

from convgpu.core.units import GIB
from convgpu.errors import QuotaRefusedError
from convgpu.testing.gpus import make_gpu

pytestmark = pytest.mark.root

NOWAIT = 1


def two_grants(house: House) -> list[dict[str, Any]] | None:
    """The second is written after its answer was sent."""
    granted = house.records("decision.granted")
    return granted if len(granted) == 2 else None


def test_credit_that_is_taken_back_is_written_before_what_it_brings_about(house: House) -> None:
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
    granted = house.until("both are written", lambda: two_grants(house))
    (reclaimed,) = house.records("credit.reclaimed")
    assert (reclaimed["process"]["pid"], reclaimed["size_bytes"]) == (first.process.pid, 3 * GIB)
    assert reclaimed["reason"] == "idle credit"
    assert reclaimed["gpu"]["index"] == 0
    assert granted[1]["seq"] == reclaimed["seq"] + 1
    assert [record["waitable"] for record in granted] == [True, False]


def test_a_request_that_nobody_waits_for_any_more_is_withdrawn(house: House) -> None:
    house.start()
    house.container("holder", limit="8GiB")
    peer = house.peer(house.container("waiter", limit="8GiB"))
    peer.do("hello")
    peer.do("hello", "second", 0)
    peer.do("acquire", 4 * GIB, "second")
    (suspended,) = house.until("it waits", lambda: house.records("decision.suspended"))
    peer.do("close", "second")
    (withdrawn,) = house.until("it is withdrawn", lambda: house.records("decision.withdrawn"))
    assert withdrawn["request"] == suspended["request"]
    assert (withdrawn["container"]["name"], withdrawn["size_bytes"]) == ("waiter", 4 * GIB)


def test_a_restarted_daemon_writes_what_it_found_and_what_it_gave_back(house: House) -> None:
    house.start()
    alpha = house.peer(house.container("alpha", limit="4GiB"))
    beta = house.peer(house.container("beta", limit="8GiB"))
    instance = beta.do("hello")["request"]
    alpha.do("hello")
    alpha.do("acquire", 3 * GIB)
    alpha.do("answer")
    alpha.do("settle", 2 * GIB)  # 1 GiB of the grant is lost on the way, as if the daemon had died there
    beta.do("acquire", 7 * GIB)
    (suspended,) = house.until("beta waits", lambda: house.records("decision.suspended"))
    assert suspended["arrived_ns"] <= suspended["mono_ns"]
    house.stop()
    house.start()
    assert [record["restored"] for record in house.records("container.seen")] == [False, False, True, True]
    found = [record for record in house.records("process.seen") if "used_bytes" in record]
    assert {(record["process"]["pid"], record["used_bytes"]) for record in found} == {
        (alpha.process.pid, 3 * GIB),
        (beta.process.pid, 0),
    }
    beta.do("hello", "again", instance)
    beta.do("acquire", 7 * GIB, "again", 4, suspended["arrived_ns"])
    asked_again = house.until("beta waits again", lambda: house.records("decision.suspended")[1:])[0]
    assert asked_again["arrived_ns"] == suspended["arrived_ns"]
    (reclaimed,) = house.until("the lost gigabyte is given back", lambda: house.records("credit.reclaimed"))
    assert (reclaimed["process"]["pid"], reclaimed["size_bytes"]) == (alpha.process.pid, GIB)
    assert "never arrived" in reclaimed["reason"]


def test_a_limit_that_only_one_of_two_devices_can_give_was_in_force_for_a_moment(house: House) -> None:
    house.nvml.devices = (make_gpu(0), make_gpu(1, total_bytes=6 * GIB))
    house.start()
    house.container("alpha", limit="4GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
        with pytest.raises(QuotaRefusedError):
            client.limit_set("alpha", 8 * GIB)
    changes = [
        (record["gpu"]["index"], record["old_limit_bytes"] // GIB, record["limit_bytes"] // GIB, record.get("reason"))
        for record in house.records("limit.set")
    ]
    assert changes == [
        (0, 4, 8, None),
        (0, 8, 4, "taken back: another of its devices cannot give as much"),
    ]
