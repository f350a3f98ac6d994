# SPDX-License-Identifier: Apache-2.0
"""Every kind of memory, on the simulated driver: prime numbers of calls, and the counts are these numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from convgpu.core.units import MIB
from convgpu.sources import simgpu

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.fuse]

HERE = Path(__file__).parent


@pytest.fixture
def sim(tmp_path):
    simgpu.up(tmp_path / "sim")
    yield tmp_path / "sim"
    simgpu.down(tmp_path / "sim")


@pytest.fixture
def cuda(watcher, sim, make_child):
    """A process with both libraries of the simulated GPU, both watched, and its primary context retained."""
    paths = [str(simgpu.library_file(name)) for name in ("libcuda.so.1", "libcudart.so.13")]
    for path, kind in zip(paths, ("libcuda", "libcudart"), strict=True):
        assert watcher.witness.attach_library(path, kind)
    inherited = {key: text for key, text in os.environ.items() if key not in {"CUDA_VISIBLE_DEVICES", "LD_PRELOAD"}}
    environment = inherited | {"CONVGPU_SIM_DEV": str(sim / "dev"), "LD_LIBRARY_PATH": str(simgpu.library_dir())}
    child = make_child(sys.executable, str(HERE / "cuda_process.py"), *paths, env=environment)
    child.tell("context()")
    return child


def driver(watcher, child):
    (balance,) = watcher.balances(child.pid)
    return balance


DRIVER_CALLS = [
    ("linear", "take('cuMemAlloc_v2', 3001)", "must('cuMemFree_v2', {})", 3001),
    ("linear", "pitch('cuMemAllocPitch_v2', 1000, 7, 4)", "must('cuMemFree_v2', {})", 7000),
    ("managed", "take('cuMemAllocManaged', 5003, 1)", "must('cuMemFree_v2', {})", 5003),
    ("pool", "take('cuMemAllocAsync', 4099, 0)", "must('cuMemFreeAsync', {}, 0)", 4099),
    ("pool", "take('cuMemAllocAsync_ptsz', 4099, 0)", "must('cuMemFreeAsync_ptsz', {}, 0)", 4099),
    ("vmm", f"take('cuMemCreate', {2 * MIB}, prop(), 0)", "must('cuMemRelease', {})", 2 * MIB),
    ("array", "take('cuArrayCreate_v2', array(100, 10, -1))", "must('cuArrayDestroy', {})", 4000),
    ("array", "take('cuArray3DCreate_v2', array(100, 10, 3))", "must('cuArrayDestroy', {})", 12000),
    ("array", "take('cuMipmappedArrayCreate', array(64, 64), 3)", "must('cuMipmappedArrayDestroy', {})", 21504),
    ("host", "take('cuMemHostAlloc', 6007, 0)", "must('cuMemFreeHost', {})", 6007),
    ("host", "take('cuMemAllocHost_v2', 6007)", "must('cuMemFreeHost', {})", 6007),
]

RUNTIME_CALLS = [
    ("linear", "take('cudaMalloc', 3001)", "must('cudaFree', {})", 3001),
    ("linear", "pitch('cudaMallocPitch', 1000, 7)", "must('cudaFree', {})", 7000),
    ("linear", "pitched(1000, 7, 3)", "must('cudaFree', {})", 21000),
    ("managed", "take('cudaMallocManaged', 5003, 1)", "must('cudaFree', {})", 5003),
    ("array", "take('cudaMallocArray', floats(), 100, 10, 0)", "must('cudaFreeArray', {})", 4000),
    ("array", "levels(64, 64, 3)", "must('cudaFreeMipmappedArray', {})", 21504),
    ("host", "take('cudaHostAlloc', 6007, 0)", "must('cudaFreeHost', {})", 6007),
    ("host", "take('cudaMallocHost', 6007)", "must('cudaFreeHost', {})", 6007),
]


def name_of(expression):
    return expression.split("'")[1] if "'" in expression else expression.partition("(")[0]


@pytest.mark.parametrize(("kind", "take", "give", "size"), DRIVER_CALLS, ids=lambda value: str(value)[:24])
def test_calls_of_the_driver_are_counted_by_kind(watcher, cuda, kind, take, give, size):
    cuda.tell(f"HELD.extend({take} for _ in range(53))")
    cuda.tell(f"[{give.format('HELD.pop()')} for _ in range(31)]")
    balance = driver(watcher, cuda)
    assert balance.driver_by_kind == {kind: 22 * size}
    assert balance.driver_bytes == (0 if kind == "host" else 22 * size)
    if kind != "host":
        assert (balance.driver_allocations, balance.driver_frees, balance.driver_failures) == (53, 31, 0)
    assert balance.runtime_by_kind == {}
    story = [event for event in watcher.story(cuda.pid) if event.source == "driver"]
    assert [(event.kind, event.memory) for event in story] == [("alloc", kind)] * 53 + [("free", kind)] * 31
    assert {event.api for event in story} == {name_of(take), name_of(give)}
    assert {event.pointer for event in story[53:]} < {event.pointer for event in story[:53]}
    watcher.expect_losses()


@pytest.mark.parametrize(("kind", "take", "give", "size"), RUNTIME_CALLS, ids=lambda value: str(value)[:24])
def test_calls_of_the_runtime_are_counted_by_kind_beside_those_of_the_driver(watcher, cuda, kind, take, give, size):
    cuda.tell(f"HELD.extend({take} for _ in range(47))")
    cuda.tell(f"[{give.format('HELD.pop()')} for _ in range(29)]")
    balance = driver(watcher, cuda)
    assert balance.runtime_by_kind == {kind: 18 * size}
    assert balance.driver_by_kind == {kind: 18 * size}
    if kind != "host":
        assert (balance.runtime_allocations, balance.runtime_frees) == (47, 29)
        assert (balance.driver_allocations, balance.driver_frees) == (47, 29)
    watcher.expect_losses()


def test_stream_ordered_memory_is_counted_once_whichever_layer_frees_it(watcher, cuda):
    cuda.tell("HELD.extend(take('cudaMallocAsync', 4099, 0) for _ in range(7))")
    cuda.tell("HELD.extend(take('cudaMalloc', 3001) for _ in range(5))")
    balance = driver(watcher, cuda)
    assert balance.driver_by_kind == {"pool": 7 * 4099, "linear": 5 * 3001}
    assert balance.runtime_by_kind == {"linear": 5 * 3001}
    cuda.tell("[must('cudaFree', HELD.pop(0)) for _ in range(3)]")
    cuda.tell("[must('cudaFreeAsync', HELD.pop(0), 0) for _ in range(4)]")
    cuda.tell("[must('cudaFreeAsync', HELD.pop(), 0) for _ in range(2)]")
    balance = driver(watcher, cuda)
    assert balance.driver_by_kind == {"pool": 0, "linear": 3 * 3001}
    assert balance.runtime_by_kind == {"linear": 3 * 3001}
    watcher.expect_losses()


def test_memory_by_handle_lives_as_long_as_it_is_mapped(watcher, cuda):
    cuda.tell(f"HELD.append(take('cuMemCreate', {2 * MIB}, prop(), 0))")
    cuda.tell(f"HELD.append(take('cuMemAddressReserve', {4 * MIB}, 0, 0, 0))")
    cuda.tell(f"must('cuMemMap', HELD[1], {2 * MIB}, 0, HELD[0], 0)")
    cuda.tell(f"must('cuMemMap', HELD[1] + {2 * MIB}, {2 * MIB}, 0, HELD[0], 0)")
    cuda.tell("must('cuMemRelease', HELD[0])")
    assert driver(watcher, cuda).driver_by_kind == {"vmm": 2 * MIB}
    cuda.tell(f"must('cuMemUnmap', HELD[1], {2 * MIB})")
    assert driver(watcher, cuda).driver_by_kind == {"vmm": 2 * MIB}
    cuda.tell(f"must('cuMemUnmap', HELD[1] + {2 * MIB}, {2 * MIB})")
    assert driver(watcher, cuda).driver_by_kind == {"vmm": 0}
    watcher.expect_losses()


def test_one_unmapping_of_several_mappings_lets_go_of_each(watcher, cuda):
    cuda.tell(f"HELD.extend(take('cuMemCreate', {2 * MIB}, prop(), 0) for _ in range(7))")
    cuda.tell(f"HELD.append(take('cuMemAddressReserve', {14 * MIB}, 0, 0, 0))")
    cuda.tell(f"[must('cuMemMap', HELD[7] + i * {2 * MIB}, {2 * MIB}, 0, HELD[i], 0) for i in range(7)]")
    cuda.tell("[must('cuMemRelease', HELD[i]) for i in range(7)]")
    assert driver(watcher, cuda).driver_bytes == 14 * MIB
    cuda.tell(f"must('cuMemUnmap', HELD[7], {14 * MIB})")
    assert driver(watcher, cuda).driver_bytes == 0
    watcher.expect_losses()


def test_the_end_of_the_last_context_ends_what_lived_in_it(watcher, cuda):
    cuda.tell("take('cuMemAlloc_v2', 3001)")
    cuda.tell("take('cudaMalloc', 5003)")
    cuda.tell(f"HELD.append(take('cuMemCreate', {2 * MIB}, prop(), 0))")
    assert driver(watcher, cuda).driver_by_kind == {"linear": 8004, "vmm": 2 * MIB}
    cuda.tell("must('cuDevicePrimaryCtxReset_v2', 0)")
    balance = driver(watcher, cuda)
    assert balance.driver_by_kind == {"linear": 0, "vmm": 2 * MIB}
    assert balance.runtime_by_kind == {"linear": 0}
    cuda.tell("context()")
    cuda.tell("take('cuMemAlloc_v2', 3001)")  # perhaps at the same address
    assert driver(watcher, cuda).driver_by_kind["linear"] == 3001
    watcher.expect_losses()


def test_a_context_that_ends_beside_another_is_told_as_a_loss(watcher, cuda):
    cuda.tell("take('cuMemAlloc_v2', 3001)")
    cuda.tell("HELD.append(take('cuCtxCreate_v4', 0, 0, 0))")
    cuda.tell("must('cuCtxDestroy_v2', HELD[0])")
    assert driver(watcher, cuda).driver_bytes == 3001
    watcher.expect_losses(context_unsure=1)


def test_another_program_begins_with_nothing(watcher, sim, cuda, until):
    cuda.tell("take('cuMemAlloc_v2', 3001)")
    assert driver(watcher, cuda).physical_bytes > 2 * MIB
    cuda.send("replace_program()")
    until(lambda: driver(watcher, cuda).driver_bytes == 0, "the other program")
    balance = driver(watcher, cuda)
    assert (balance.driver_bytes, balance.physical_bytes) == (0, 0)
    assert balance.allocations == balance.frees
    cuda.tell("context()")
    cuda.tell("take('cuMemAlloc_v2', 5003)")
    balance = driver(watcher, cuda)
    assert balance.driver_bytes == 5003
    assert {balance.device_instance: balance.physical_bytes} == {
        gpu.instance: gpu.process_bytes[cuda.pid] for gpu in simgpu.status(sim).gpus
    }


def test_latencies_count_every_call_of_a_cgroup(watcher, cuda):
    before = {latency.api: latency for latency in watcher.witness.latencies()}
    cuda.tell("HELD.extend(take('cudaMalloc', 3001) for _ in range(101))")
    cuda.tell("[must('cudaFree', HELD.pop()) for _ in range(97)]")
    cuda.tell(f"[call('cudaMalloc', (ctypes.c_uint64 * 1)(), {1 << 50}) for _ in range(13)]")
    now = {latency.api: latency for latency in watcher.witness.latencies()}

    def change(api, field):
        return getattr(now[api], field) - (getattr(before[api], field) if api in before else 0)

    assert (change("cudaMalloc", "calls"), change("cudaMalloc", "failures")) == (101, 13)
    assert (change("cudaFree", "calls"), change("cudaFree", "size_bytes")) == (97, 97 * 3001)
    assert (change("cuMemAlloc_v2", "calls"), change("cuMemFree_v2", "calls")) == (101, 97)
    assert {now[api].source for api in ("cudaMalloc", "cudaFree")} == {"runtime"}
    for latency in now.values():
        assert sum(latency.histogram) == latency.calls + latency.failures
        assert latency.total_ns > 0
