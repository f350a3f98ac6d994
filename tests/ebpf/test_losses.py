# SPDX-License-Identifier: Apache-2.0
"""What does not fit is counted, and never bends a balance; what cannot be loaded says why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.ebpf import BpfWitness

pytestmark = [pytest.mark.root, pytest.mark.bpf]


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def small_witness(header_cache, bpf_dir, cuda_library):
    """Starts witnesses with other sizes."""
    started = []

    def start(**macros):
        witness = BpfWitness(bpf_dir, cache_dir=header_cache, macros=macros)
        started.append(witness)
        witness.start()
        for kind in ("libcuda", "libcudart"):
            assert witness.attach_library(str(cuda_library), kind)
        return witness

    yield start
    for witness in started:
        witness.close()


def test_an_overflowing_ring_is_counted_and_balances_stay_exact(small_witness, program, until):
    witness = small_witness(CVG_RING_PAGES=1)
    child = program()
    child.tell("runtime 1009 997 4096")
    events = witness.drain()
    (balance,) = witness.balances()
    assert (balance.runtime_allocations, balance.runtime_frees, balance.runtime_bytes) == (1009, 997, 12 * 4096)
    lost = witness.status().lost
    assert set(lost) == {"ring_full"}
    assert 0 < len(events) < 100
    assert len(events) + lost["ring_full"] == 2 * (1009 + 997)


def test_the_end_of_a_process_is_noticed_though_its_event_was_lost(small_witness, program, until):
    witness = small_witness(CVG_RING_PAGES=1)
    child, other = program(), program()
    child.tell("runtime 2 0 4096")
    witness.drain()
    other.tell("runtime 1009 0 4096")  # fills the ring
    child.kill()
    events = []
    until(lambda: events.extend(witness.drain()) or [e for e in events if e.kind == "exit"], "the exit event")
    assert [event.pid for event in events if event.kind == "exit"] == [child.pid]


def test_a_full_table_keeps_out_what_could_not_be_taken_off_again(small_witness, program):
    witness = small_witness(CVG_MAX_LIVE=32)
    child = program()
    child.tell("runtime 53 0 4096")
    (balance,) = witness.balances()
    kept = balance.runtime_allocations + balance.driver_allocations
    assert kept + witness.losses()["live_full"] == 2 * 53
    assert balance.runtime_bytes == balance.runtime_allocations * 4096
    assert kept <= 32
    child.kill()


def test_a_full_table_of_balances_is_counted(small_witness, program):
    witness = small_witness(CVG_MAX_BALANCES=1)
    child = program()
    child.tell("runtime 13 11 4096")
    (balance,) = witness.balances()
    kept = balance.runtime_allocations + balance.driver_allocations
    assert (kept, balance.runtime_frees + balance.driver_frees) == (13, 11)
    assert witness.losses()["balances_full"] == 13  # the other layer had no room
    assert witness.losses()["unknown_free"] == 11


@pytest.mark.fuse
def test_a_full_table_of_objects_is_counted(small_witness, rm):
    witness = small_witness(CVG_MAX_OBJECTS=16)
    child = rm()
    child.client(0xC3000001)
    child.device(0xC3000001, 0x80, instance=0)
    for handle in range(37):
        child.memory(0xC3000001, 0x80, 0x1000 + handle, 4096)
    (balance,) = witness.balances()
    assert balance.allocations + witness.losses()["objects_full"] == 37
    assert balance.physical_bytes == balance.allocations * 4096
    for handle in range(37):
        child.free(0xC3000001, 0x1000 + handle)
    (balance,) = witness.balances()
    assert (balance.physical_bytes, balance.allocations - balance.frees) == (0, 0)


def test_an_error_of_the_compiler_is_in_the_exception_and_not_on_stderr(header_cache, bpf_dir, tmp_path, capfd):
    broken = tmp_path / "bpf"
    shutil.copytree(bpf_dir, broken)
    path = broken / "driver.bpf.c"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "int broken(void) { return nowhere; }"]))
    witness = BpfWitness(broken, cache_dir=header_cache)
    with pytest.raises(EnvironmentMissingError) as raised:
        witness.start()
    assert f"driver.bpf.c:{len(lines) + 1}:" in raised.value.message
    assert "undeclared identifier 'nowhere'" in raised.value.message
    assert capfd.readouterr().err == ""
    assert not witness.status().running


def test_a_witness_leaves_nothing_behind_when_it_closes(small_witness, program, cuda_library):
    descriptors = open_descriptors()
    environment = dict(os.environ)
    witness = small_witness()
    assert open_descriptors() > descriptors
    witness.close()
    assert open_descriptors() == descriptors
    assert os.environ.get("BCC_KERNEL_SOURCE") == environment.get("BCC_KERNEL_SOURCE")
    assert not witness.status().running
    assert (witness.balances(), witness.drain(), witness.losses()) == ([], [], {})
    witness.forget(1)
