# SPDX-License-Identifier: Apache-2.0
"""A witness that is killed loses nothing: the kernel counts on, and the next witness finds the accounts."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys

import pytest

from convgpu.sources.bpf_pins import BPF_FILE_SYSTEM
from convgpu.sources.ebpf import BpfWitness

pytestmark = [pytest.mark.root, pytest.mark.bpf]

# Starts a witness, says so, and waits to be killed.
DAEMON = """
import pathlib
import sys
from convgpu.sources.ebpf import BpfWitness
witness = BpfWitness(pathlib.Path(sys.argv[1]), cache_dir=pathlib.Path(sys.argv[2]), owner=sys.argv[3])
witness.start()
assert witness.attach_library(sys.argv[4], "libcudart")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """A daemon's run folder: what tells its pins from another daemon's."""
    yield str(tmp_path)
    for pins in pin_folders(str(tmp_path)):
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()
    if home(str(tmp_path)).exists():
        home(str(tmp_path)).rmdir()


def home(owner):
    return BPF_FILE_SYSTEM / f"convgpu-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"


def pin_folders(owner):
    return list(home(owner).iterdir()) if home(owner).exists() else []


@pytest.fixture
def killed_witness(owner, bpf_dir, header_cache, cuda_library):
    """Runs a witness in a process of its own; calling what it gives kills that process."""
    arguments = [str(bpf_dir), str(header_cache), owner, str(cuda_library)]
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def kill():
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    try:
        assert process.stdout.readline() == "ready\n"
        yield kill
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def next_witness(owner, bpf_dir, header_cache):
    started = []

    def start(**options):
        witness = BpfWitness(bpf_dir, cache_dir=header_cache, owner=owner, **options)
        started.append(witness)
        witness.start()
        return witness

    yield start
    for witness in started:
        witness.close()


def test_what_happens_while_no_witness_runs_is_counted(killed_witness, next_witness, program, cuda_library):
    child = program()
    child.tell("runtime 97 0 4096")
    killed_witness()
    child.tell("runtime 53 41 8192")
    child.tell("fail 3")

    witness = next_witness()
    assert witness.attach_library(str(cuda_library), "libcudart")
    child.tell("runtime 7 5 16384")
    seen = next(balance for balance in witness.balances() if balance.pid == child.pid)
    assert (seen.runtime_allocations, seen.runtime_frees, seen.runtime_failures) == (157, 46, 3)
    assert seen.runtime_bytes == 97 * 4096 + 12 * 8192 + 2 * 16384
    kinds = [event.kind for event in witness.drain() if event.pid == child.pid]
    assert (kinds.count("alloc"), kinds.count("free"), kinds.count("fail")) == (157, 46, 3)
    assert not witness.status().lost.keys() & {"ring_full", "unknown_free", "missed_free"}


def test_a_process_that_ended_meanwhile_is_forgotten(killed_witness, next_witness, watch, program):
    child = program()
    child.tell("runtime 97 0 4096")
    killed_witness()
    child.kill()
    watcher = watch(next_witness())
    assert watcher.entries(child.pid) == {}


def test_a_witness_that_closes_takes_its_pins_along(killed_witness, next_witness, watch, owner, program):
    assert len(pin_folders(owner)) == 1
    child = program()
    killed_witness()
    witness = next_witness()
    witness.close()
    assert not home(owner).exists()
    child.tell("runtime 3 0 4096")
    assert watch(next_witness()).balances(child.pid) == []


def test_a_witness_may_leave_its_pins_to_the_next(next_witness, watch, program, cuda_library):
    first = next_witness()
    assert first.attach_library(str(cuda_library), "libcudart")
    first.close(keep=True)
    child = program()
    child.tell("runtime 11 3 4096")
    assert watch(next_witness()).balance(child.pid).runtime_bytes == 8 * 4096


def test_pins_of_another_version_are_dropped(killed_witness, next_witness, watch, owner, program):
    (old,) = pin_folders(owner)
    child = program()
    child.tell("runtime 3 0 4096")
    killed_witness()
    watcher = watch(next_witness(macros={"CVG_MAX_LIVE": 1024}))
    (new,) = pin_folders(owner)
    assert new != old
    assert watcher.balances(child.pid) == []
    child.tell("runtime 5 0 4096")
    assert watcher.balances(child.pid) == []  # the old probes are gone, and this witness was given no library


def test_two_owners_do_not_meet(next_witness, watch, tmp_path, bpf_dir, header_cache, program, cuda_library):
    first = next_witness()
    second = BpfWitness(bpf_dir, cache_dir=header_cache, owner=f"{tmp_path}-other")
    second.start()
    try:
        for witness in (first, second):
            assert witness.attach_library(str(cuda_library), "libcudart")
        child = program()
        child.tell("runtime 13 7 4096")
        held = [watch(witness).balance(child.pid).runtime_bytes for witness in (first, second)]
        assert held == [6 * 4096, 6 * 4096]
    finally:
        second.close()
