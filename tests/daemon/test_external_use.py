# SPDX-License-Identifier: Apache-2.0
"""What other programs hold on a device moves what containers may be assigned; noise does not."""

from __future__ import annotations

import time

import pytest
from house import House, PeerProcess

from convgpu.core.status import GpuStatus
from convgpu.core.units import GIB, MIB
from convgpu.testing.gpus import make_gpu

pytestmark = pytest.mark.root

GPU = make_gpu().uuid


def gpu_of(house: House) -> GpuStatus:
    with house.client() as client:
        return client.snapshot().gpus[0]


def asker(house: House, name: str, size_bytes: int) -> PeerProcess:
    """Start a container that may use the whole device, and asks for so much of it."""
    peer = house.peer(house.container(name, limit="10GiB", guarantee="0"))
    peer.do("hello")
    peer.do("acquire", size_bytes)
    return peer


def test_what_another_program_takes_and_gives_back_moves_the_capacity(house: House) -> None:
    house.start()
    assert (gpu_of(house).capacity_bytes, gpu_of(house).external_bytes) == (10 * GIB, 0)
    house.nvml.others_bytes = 6 * GIB + 5 * MIB
    taken = house.until("it has lasted", lambda: house.records("capacity.changed"))
    assert (gpu_of(house).capacity_bytes, gpu_of(house).external_bytes) == (4 * GIB - 32 * MIB, 6 * GIB + 32 * MIB)
    assert (taken[0]["external_bytes"], taken[0]["reason"]) == (6 * GIB + 32 * MIB, "external")
    house.container("alpha", limit="3GiB")
    late = house.peer(house.container("late", limit="3GiB"))
    late.do("hello")
    late.do("acquire", 3 * GIB)
    with house.client() as client:
        house.until("late waits", lambda: client.snapshot().queue)
    house.nvml.others_bytes = 0
    assert late.do("answer")["type"] == "GRANTED"
    house.until("both changes are written", lambda: len(house.records("capacity.changed")) == 2)
    assert gpu_of(house).capacity_bytes == 10 * GIB


def test_what_guarded_processes_hold_is_not_outside_whoever_sees_it_first(house: House) -> None:
    house.start()
    peer = asker(house, "alpha", 6 * GIB)
    assert peer.do("answer")["type"] == "GRANTED"
    peer.do("settle", 2 * GIB)
    house.nvml.process_bytes[GPU] = {peer.process.pid: 6 * GIB}  # NVML sees it before the page does
    time.sleep(1.0)
    peer.do("settle", 4 * GIB)
    house.nvml.process_bytes[GPU] = {}  # and now the page before NVML's list of processes
    house.nvml.others_bytes = 6 * GIB
    time.sleep(2.5)
    assert house.records("capacity.changed") == []
    assert gpu_of(house).external_bytes == 0


def test_a_process_that_was_killed_may_be_slow_to_give_back(house: House) -> None:
    house.start()
    peer = asker(house, "alpha", 6 * GIB)
    peer.do("answer")
    peer.do("settle", 6 * GIB)
    house.nvml.process_bytes[GPU] = {peer.process.pid: 6 * GIB}
    time.sleep(0.3)
    peer.kill()
    house.until("its account is closed", lambda: house.records("process.gone"))
    time.sleep(1.0)
    house.nvml.process_bytes[GPU] = {}
    time.sleep(2.0)
    assert house.records("capacity.changed") == []


def test_a_capacity_that_is_set_holds_whatever_others_take(house: House) -> None:
    house.config_file.write_text('capacity = "8GiB"\n')
    house.start()
    house.nvml.others_bytes = 6 * GIB
    house.until("it is shown", lambda: gpu_of(house).external_bytes == 6 * GIB)
    assert gpu_of(house).capacity_bytes == 8 * GIB
    assert house.records("capacity.changed") == []


def test_what_passes_while_a_daemon_starts_is_not_taken_for_what_others_hold(house: House) -> None:
    house.nvml.passing_bytes = [3 * GIB]
    house.start()
    assert gpu_of(house).capacity_bytes == 10 * GIB


def test_a_restarted_daemon_does_not_take_its_processes_for_others(house: House) -> None:
    house.start()
    peer = asker(house, "alpha", 6 * GIB)
    peer.do("answer")
    peer.do("settle", 6 * GIB)
    house.nvml.process_bytes[GPU] = {peer.process.pid: 5 * GIB}
    house.nvml.others_bytes = 2 * GIB  # 1 GiB of it is the process's, not yet in NVML's list
    house.stop()
    house.start()
    assert (gpu_of(house).capacity_bytes, gpu_of(house).external_bytes) == (9 * GIB, GIB)
