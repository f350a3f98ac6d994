# SPDX-License-Identifier: Apache-2.0
"""Libraries are found by what processes map, attached once for each real file, and let go of."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time

import pytest

from convgpu.core.units import MIB
from convgpu.daemon.discovery import Discovery
from convgpu.daemon.observer import Observer
from convgpu.sources import bpf_libraries, simgpu
from convgpu.sources.ebpf import BpfWitness
from convgpu.testing.gpus import FakeGpuSource

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def witness(header_cache, bpf_dir):
    """One that has no library yet."""
    witness = BpfWitness(bpf_dir, cache_dir=header_cache)
    witness.start()
    yield witness
    witness.close()


def files(witness):
    """The files of which functions are watched."""
    return {line.rpartition(": ")[0] for line in witness.status().attached if not line.startswith("tracepoint")}


def runtime_counts(witness, pid):
    return [(b.runtime_allocations, b.runtime_frees) for b in witness.balances() if b.pid == pid]


@pytest.fixture
def overlays(cuda_library, tmp_path):
    """Two containers of one image: overlays with a common lower layer."""
    mounts = []
    for name in ("one", "two"):
        for part in ("merged", "upper", "work"):
            (tmp_path / name / part).mkdir(parents=True)
        folder = tmp_path / name
        options = f"lowerdir={cuda_library.parent},upperdir={folder}/upper,workdir={folder}/work"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "merged")]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("no overlay file system here")
        mounts.append(folder / "merged")
    yield mounts
    for mount in mounts:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_containers_that_share_a_layer_are_one_attachment(witness, program, cuda_library, overlays):
    children = [program(env={"LD_LIBRARY_PATH": str(mount)}) for mount in overlays]
    for child, mount in zip(children, overlays, strict=True):
        child.tell("nothing")  # by now it has mapped its library
        assert witness.attach_library(f"/proc/{child.pid}/root{mount}/{cuda_library.name}", "libcudart")
    assert files(witness) == {str(cuda_library)}
    for child in children:
        child.tell("runtime 7 5 4096")
        assert runtime_counts(witness, child.pid) == [(7, 5)]


def test_a_file_that_a_container_changed_is_watched_anew(witness, program, cuda_library, overlays):
    one = overlays[0]
    assert witness.attach_library(str(one / cuda_library.name), "libcudart")
    os.utime(one / cuda_library.name)  # copied up: from now on another file
    changed, shared = (program(env={"LD_LIBRARY_PATH": str(mount)}) for mount in overlays)
    changed.tell("runtime 3 0 4096")
    assert runtime_counts(witness, changed.pid) == []  # this is why one has to look again
    assert witness.attach_library(f"/proc/{changed.pid}/root{one}/{cuda_library.name}", "libcudart")
    changed.tell("runtime 7 5 4096")
    shared.tell("runtime 11 3 4096")
    assert runtime_counts(witness, changed.pid) == [(7, 5)]
    assert runtime_counts(witness, shared.pid) == [(11, 3)]
    assert len(files(witness)) == 2


def test_a_library_that_was_replaced_is_watched_as_the_new_file(witness, program, cuda_library, tmp_path):
    library = tmp_path / cuda_library.name
    shutil.copy(cuda_library, library)
    assert witness.attach_library(str(library), "libcudart")
    library.unlink()
    shutil.copy(cuda_library, library)
    assert witness.attach_library(str(library), "libcudart")
    child = program(env={"LD_LIBRARY_PATH": str(tmp_path)})
    child.tell("runtime 7 5 4096")
    assert runtime_counts(witness, child.pid) == [(7, 5)]


def test_a_runtime_that_nobody_has_mapped_for_long_is_let_go(witness, program, cuda_library, monkeypatch):
    assert witness.attach_library(str(cuda_library), "libcudart")
    assert witness.attach_library(str(cuda_library), "libcuda")
    assert witness.release_unused([]) == []  # not yet
    monkeypatch.setattr(bpf_libraries, "LINGER_S", 0.0)
    assert witness.release_unused([str(cuda_library)]) == []  # in use
    assert witness.release_unused([]) == [str(cuda_library)]
    child = program()
    child.tell("runtime 7 5 4096")
    (balance,) = (balance for balance in witness.balances() if balance.pid == child.pid)
    assert (balance.runtime_allocations, balance.driver_allocations) == (0, 7)
    assert witness.attach_library(str(cuda_library), "libcudart")
    child.tell("runtime 7 5 4096")
    assert runtime_counts(witness, child.pid) == [(7, 5)]


SLOW_BYTES = 1048577  # fixture_cuda.h


@pytest.mark.parametrize("frees", [0, 1])
def test_a_call_that_had_begun_when_its_library_was_found_is_counted(witness, watch, program, cuda_library, frees):
    assert witness.attach_library(str(cuda_library), "libcuda")
    watcher = watch(witness)
    child = program()
    child.tell("driver 3 0 4096")
    child.send(f"runtime 1 {frees} {SLOW_BYTES}")
    time.sleep(0.3)  # it is inside cudaMalloc now
    assert witness.attach_library(f"/proc/{child.pid}/root{cuda_library}", "libcudart")
    assert child.process.stdout.readline() == "0\n"
    balance = watcher.balance(child.pid)
    assert (balance.runtime_allocations, balance.runtime_frees) == (1, frees)
    assert balance.runtime_bytes == (0 if frees else SLOW_BYTES)
    assert (balance.driver_allocations, balance.driver_frees) == (4, frees)
    child.tell("runtime 7 5 4096")
    assert (watcher.balance(child.pid).runtime_allocations, watcher.balance(child.pid).runtime_frees) == (8, frees + 5)
    watcher.expect_losses()
    assert "catching" not in watcher.entries(child.pid)


def test_a_call_that_was_seen_to_begin_is_not_counted_again_when_its_process_is_looked_at(
    witness, watch, program, cuda_library
):
    assert witness.attach_library(str(cuda_library), "libcuda")
    assert witness.attach_library(str(cuda_library), "libcudart")
    watcher = watch(witness)
    child = program()
    child.tell("driver 3 0 4096")
    child.send(f"runtime 1 0 {SLOW_BYTES}")
    time.sleep(0.3)  # it is inside cudaMalloc now, and its entry was seen
    assert witness.attach_library(f"/proc/{child.pid}/root{cuda_library}", "libcudart")
    assert child.process.stdout.readline() == "0\n"
    balance = watcher.balance(child.pid)
    assert (balance.runtime_allocations, balance.runtime_bytes) == (1, SLOW_BYTES)
    watcher.expect_losses()


def test_a_call_of_the_driver_alone_is_not_taken_for_one_of_the_runtime(witness, watch, program, cuda_library):
    assert witness.attach_library(str(cuda_library), "libcuda")
    child = program()
    child.tell("driver 1 0 4096")
    assert witness.attach_library(f"/proc/{child.pid}/root{cuda_library}", "libcudart")
    child.tell("driver 3 0 4096")
    balance = watch(witness).balance(child.pid)
    assert (balance.driver_allocations, balance.runtime_allocations) == (4, 0)


def test_what_runs_already_is_found(witness, program, cuda_library, tmp_path):
    for name in ("libcuda.so.1", "libcudart.so.12"):
        shutil.copy(cuda_library, tmp_path / name)
    (tmp_path / cuda_library.name).symlink_to("libcudart.so.12")
    child = program(env={"LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": str(tmp_path / "libcuda.so.1")})
    child.tell("nothing")  # by now it has mapped them
    Discovery().look_at_all(witness)
    found = {path.removeprefix(f"/proc/{child.pid}/root") for path in files(witness)}
    assert {str(tmp_path / "libcuda.so.1"), str(tmp_path / "libcudart.so.12")} <= found


@pytest.mark.fuse
@pytest.mark.parametrize("name", ["story", "story-static"])
def test_a_process_without_the_wrapper_is_watched_when_it_begins_to_use_the_driver(
    header_cache, bpf_dir, tmp_path, own_pids, name
):
    sim = tmp_path / "sim"
    goal = tmp_path / "go"
    simgpu.up(sim)
    environment = {
        **{key: text for key, text in os.environ.items() if key not in {"CUDA_VISIBLE_DEVICES", "LD_PRELOAD"}},
        "CONVGPU_SIM_DEV": str(sim / "dev"),
        "LD_LIBRARY_PATH": str(simgpu.library_dir()),
    }
    gpus = FakeGpuSource()
    witness = BpfWitness(bpf_dir, cache_dir=header_cache)
    observer = Observer(gpus, witness, gpus.gpus())

    async def run():
        assert await observer.start([(str(simgpu.library_file("libcuda.so.1")), "libcuda")]) is None
        process = subprocess.Popen(
            [str(simgpu.library_dir() / "bin" / name), "info", f"wait-file={goal}", "alloc=5MiB", f"wait-file={goal}2"],
            env=environment,
        )
        own_pids.add(process.pid)
        try:
            async with asyncio.timeout(10):
                while not any("cudaMalloc" in line for line in (await observer.status()).attached):
                    await asyncio.sleep(0.01)
                goal.touch()
                while not (seen := await observer.look()).requested.get(process.pid):
                    await asyncio.sleep(0.01)
            assert seen.requested[process.pid] == 5 * MIB
            assert seen.containers[process.pid] is None  # of the host
            assert process.pid not in seen.partial
        finally:
            process.kill()
            process.wait()
            await observer.close(keep=False)

    try:
        asyncio.run(run())
    finally:
        simgpu.down(sim)
