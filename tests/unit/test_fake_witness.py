# SPDX-License-Identifier: Apache-2.0
"""The fake keeps the books as the kernel does; tests/ebpf holds the real one to the same statements."""

from __future__ import annotations

import pytest

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.witness import UNKNOWN_DEVICE, Witness
from convgpu.testing.witness import FakeWitness


@pytest.fixture
def witness():
    witness: Witness = FakeWitness()  # mypy holds it to the Protocol
    witness.start()
    assert witness.attach_library("/lib/libcuda.so.1", "libcuda")
    assert witness.attach_library("/lib/libcudart.so.13", "libcudart")
    return witness


def test_layers_are_kept_apart(witness):
    witness.process(10, cgroup_id=7, comm="train")
    for _ in range(97):
        witness.alloc(10, 1000, layer="runtime")
        witness.alloc(10, 1000, layer="driver")
        witness.alloc(10, 4096, device=2)
    for _ in range(89):
        witness.free(10, 4096, device=2)
    (balance,) = witness.balances()
    assert (balance.cgroup_id, balance.pid, balance.device_instance) == (7, 10, 2)
    assert (balance.physical_bytes, balance.physical_peak_bytes) == (8 * 4096, 97 * 4096)
    assert (balance.driver_bytes, balance.runtime_bytes) == (97000, 97000)
    assert (balance.allocations, balance.frees, balance.runtime_allocations) == (97, 89, 97)


def test_api_figures_of_several_devices_stand_alone(witness):
    witness.alloc(10, 4096, device=0)
    witness.alloc(10, 8192, device=1)
    witness.alloc(10, 1000, layer="runtime")
    by_device = {balance.device_instance: balance for balance in witness.balances()}
    assert {device: balance.physical_bytes for device, balance in by_device.items()} == {0: 4096, 1: 8192, -1: 0}
    assert by_device[UNKNOWN_DEVICE].runtime_bytes == 1000


def test_failures_and_unknown_frees(witness):
    witness.fail(10, 1 << 40)
    witness.free(10, 1, layer="runtime")
    (balance,) = witness.balances()
    assert (balance.failures, balance.allocations, balance.physical_bytes) == (1, 0, 0)
    assert witness.status().lost == {"unknown_free": 1}


def test_an_end_is_told_once_and_the_balance_stays_until_forgotten(witness):
    witness.alloc(10, 4096)
    witness.end(10)
    witness.end(10)
    witness.end(11)
    assert [event.kind for event in witness.drain()] == ["alloc", "exit"]
    assert len(witness.balances()) == 1
    witness.forget(10)
    assert witness.balances() == []


def test_lost_events_bend_no_balance():
    witness = FakeWitness(ring_events=3)
    witness.start()
    for _ in range(10):
        witness.alloc(10, 4096)
    assert len(witness.drain()) == 3
    assert witness.status().lost == {"ring_full": 7}
    assert witness.balances()[0].allocations == 10


def test_what_is_not_attached_is_not_seen():
    witness = FakeWitness(libraries={"/lib/libcuda.so.1": "libcuda"}, devices={1: (0, 6, 0)})
    witness.alloc(10, 1)
    assert witness.balances() == []
    assert not witness.status().running
    witness.start()
    assert not witness.attach_library("/lib/libcudart.so.13", "libcudart")
    assert witness.attach_library("/lib/libcuda.so.1", "libcuda")
    witness.alloc(10, 1000, layer="runtime")
    assert witness.balances() == []
    assert witness.status().missing == ("/lib/libcudart.so.13: not defined in this file",)
    assert witness.device_map() == {1: (0, 6, 0)}


def test_it_can_be_without_a_kernel():
    witness = FakeWitness(missing="no bcc")
    with pytest.raises(EnvironmentMissingError, match="no bcc"):
        witness.start()
