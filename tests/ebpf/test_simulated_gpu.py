# SPDX-License-Identifier: Apache-2.0
"""Whole CUDA programs on the simulated GPU: what the witness counts is what the driver says, to the byte."""

from __future__ import annotations

import os
import subprocess

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.sources import simgpu

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.fuse]


@pytest.fixture
def sim(tmp_path):
    """Two simulated GPUs; their instances are not their indices."""
    simgpu.up(tmp_path / "sim", gpus=2)
    yield tmp_path / "sim"
    simgpu.down(tmp_path / "sim")


@pytest.fixture
def story(sim, own_pids, tmp_path):
    """Runs the demo program to a step where it waits, and ends it with the test."""
    started = []

    def run(*steps, name="story", **environment):
        goal = tmp_path / f"go-{len(started)}"
        inherited = {key: text for key, text in os.environ.items() if key not in {"CUDA_VISIBLE_DEVICES", "LD_PRELOAD"}}
        inherited |= {"CONVGPU_SIM_DEV": str(sim / "dev"), "LD_LIBRARY_PATH": str(simgpu.library_dir())}
        process = subprocess.Popen(
            [str(simgpu.library_dir() / "bin" / name), *steps, "info", f"wait-file={goal}", "free", "info"],
            env=inherited | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        process.go_on = goal.touch
        started.append(process)
        own_pids.add(process.pid)
        for line in process.stdout:
            if "step=info" in line:
                return process
        pytest.fail("the story ended before its wait")

    yield run
    for process in started:
        process.kill()
        process.wait(10)
        process.stdout.close()


@pytest.fixture
def libraries(watcher):
    for name, kind in (("libcuda.so.1", "libcuda"), ("libcudart.so.13", "libcudart")):
        assert watcher.witness.attach_library(str(simgpu.library_file(name)), kind)
    assert watcher.witness.attach_library(str(simgpu.library_dir() / "bin/story-static"), "libcudart")


def held(sim, pid):
    """The driver's own figures: bytes by device instance."""
    return {gpu.instance: gpu.process_bytes[pid] for gpu in simgpu.status(sim).gpus if pid in gpu.process_bytes}


@pytest.mark.parametrize("name", ["story", "story-static"])
def test_the_witness_agrees_with_the_driver_to_the_byte(watcher, libraries, sim, story, name):
    sizes = [f"alloc={3 * MIB + index}" for index in range(97)]
    process = story(*sizes, "free", "alloc=1000", "alloc=1025KiB", name=name)
    balance = watcher.balance(process.pid)
    assert {balance.device_instance: balance.physical_bytes} == held(sim, process.pid)
    assert (balance.runtime_allocations, balance.runtime_frees) == (99, 97)
    assert (balance.driver_allocations, balance.driver_frees) == (99, 97)
    assert balance.runtime_bytes == balance.driver_bytes == 1000 + 1025 * 1024
    assert balance.physical_peak_bytes >= 97 * 4 * MIB
    watcher.expect_losses()


def test_what_the_driver_refuses_is_seen_as_refused(watcher, libraries, sim, story):
    process = story("alloc=1GiB", "try=20GiB", "try=30GiB")
    balance = watcher.balance(process.pid)
    assert (balance.failures, balance.driver_failures, balance.runtime_failures) == (2, 2, 2)
    assert {balance.device_instance: balance.physical_bytes} == held(sim, process.pid)
    failures = [event for event in watcher.story(process.pid) if event.kind == "fail" and event.source == "boundary"]
    assert [event.size_bytes for event in failures] == [20 * GIB, 30 * GIB]


def test_each_device_has_its_own_account_and_is_known_by_its_address(watcher, libraries, sim, story):
    for index in ("0", "1"):
        process = story("alloc=64MiB", CUDA_VISIBLE_DEVICES=index)
        balance = watcher.balance(process.pid)
        gpu = simgpu.status(sim).gpus[int(index)]
        assert (balance.device_instance, balance.physical_bytes) == (gpu.instance, gpu.process_bytes[process.pid])
        domain, bus, slot = watcher.witness.device_map()[balance.device_instance]
        assert gpu.pci.lower().endswith(f"{domain:04x}:{bus:02x}:{slot:02x}.0")


def test_a_clean_end_and_a_kill_both_leave_nothing(watcher, libraries, sim, story, until):
    ends, killed = story("alloc=64MiB"), story("alloc=64MiB")
    assert watcher.entries(ends.pid, killed.pid)["clients"] >= 2
    ends.go_on()
    assert ends.wait(10) == 0
    killed.kill()
    for process in (ends, killed):
        until(lambda pid=process.pid: watcher.exits(pid), "the exit event")
        assert held(sim, process.pid) == {}
    assert watcher.balance(ends.pid).runtime_bytes == 0
    assert watcher.balance(killed.pid).runtime_bytes == 64 * MIB
    assert watcher.entries(ends.pid, killed.pid)["balances"] > 0
    watcher.witness.forget_many((ends.pid, killed.pid))
    assert watcher.entries(ends.pid, killed.pid) == {}
