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


def test_an_overflowing_ring_is_counted_and_balances_stay_exact(small_witness, watch, program):
    watcher = watch(small_witness(CVG_RING_PAGES=1, CVG_TOLD_A_SECOND=1000000))
    child = program()
    child.tell("runtime 1009 997 4096")
    delivered = len(watcher.story(child.pid))
    balance = watcher.balance(child.pid)
    assert (balance.runtime_allocations, balance.runtime_frees, balance.runtime_bytes) == (1009, 997, 12 * 4096)
    lost = watcher.witness.status().lost["ring_full"]
    assert delivered < 100
    if watcher.others():  # theirs are lost as well
        assert delivered + lost > 2 * (1009 + 997)
    else:
        assert delivered + lost == 2 * (1009 + 997)
        assert delivered > 0
        watcher.expect_losses(ring_full=lost)


def test_the_end_of_a_process_is_noticed_though_its_event_was_lost(small_witness, watch, program, until):
    watcher = watch(small_witness(CVG_RING_PAGES=1, CVG_TOLD_A_SECOND=1000000))
    child, other = program(), program()
    child.tell("runtime 2 0 4096")
    watcher.story(child.pid)
    other.tell("runtime 1009 0 4096")  # fills the ring
    child.kill()
    until(lambda: watcher.exits(child.pid), "the exit event")
    (event,) = watcher.exits(child.pid)
    assert event.comm == ""  # not from the kernel: found by looking
    assert watcher.exits(other.pid) == []


def test_a_full_table_keeps_out_what_could_not_be_taken_off_again(small_witness, watch, program):
    watcher = watch(small_witness(CVG_MAX_LIVE=32))
    child = program()
    child.tell("runtime 53 0 4096")
    balance = watcher.balance(child.pid)
    kept = balance.runtime_allocations + balance.driver_allocations
    assert kept + watcher.losses()["live_full"] == 2 * 53
    assert balance.runtime_bytes == balance.runtime_allocations * 4096
    assert 0 < kept <= 32


def test_a_full_table_of_balances_is_counted(small_witness, watch, program):
    watcher = watch(small_witness(CVG_MAX_BALANCES=1))
    child = program()
    child.tell("runtime 13 11 4096")
    if watcher.others():
        pytest.skip("other processes have taken the one place")
    balance = watcher.balance(child.pid)
    kept = balance.runtime_allocations + balance.driver_allocations
    assert (kept, balance.runtime_frees + balance.driver_frees) == (13, 11)
    watcher.expect_losses(balances_full=13, unknown_free=11)  # the other layer had no room


@pytest.mark.fuse
def test_a_full_table_of_objects_is_counted(small_witness, watch, rm):
    watcher = watch(small_witness(CVG_MAX_OBJECTS=16))
    child = rm()
    child.client(0xC3000001)
    child.device(0xC3000001, 0x80, instance=0)
    for handle in range(37):
        child.memory(0xC3000001, 0x80, 0x1000 + handle, 4096)
    if watcher.others():
        pytest.skip("other processes have taken places")
    balance = watcher.balance(child.pid)
    assert balance.allocations + watcher.losses()["objects_full"] == 37
    assert 0 < balance.allocations <= 16
    assert balance.physical_bytes == balance.allocations * 4096
    for handle in range(37):
        child.free(0xC3000001, 0x1000 + handle)
    balance = watcher.balance(child.pid)
    assert (balance.physical_bytes, balance.allocations - balance.frees) == (0, 0)


def test_an_error_of_the_compiler_is_in_the_exception_and_not_on_stderr(header_cache, bpf_dir, tmp_path, capfd):
    broken = tmp_path / "bpf"
    shutil.copytree(bpf_dir, broken)
    (tmp_path / "wrapper").symlink_to(bpf_dir.parent / "wrapper")
    path = broken / "libraries.bpf.c"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "int broken(void) { return nowhere; }"]))
    witness = BpfWitness(broken, cache_dir=header_cache)
    with pytest.raises(EnvironmentMissingError) as raised:
        witness.start()
    assert f"libraries.bpf.c:{len(lines) + 1}:" in raised.value.message
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
