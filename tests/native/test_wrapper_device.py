# SPDX-License-Identifier: Apache-2.0
"""The wrapper on a device: the simulated GPU, and the same on a real one. The device's own figures are the judge."""

from __future__ import annotations

from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu
from wrapper_process import MIB, OUT_OF_MEMORY, Program, settled

from convgpu.core.units import GIB

FRAGILE_PERCENT = 20
"""Of a context's cost: so much room lets all of its objects in but the last two (518 MiB: 102 of 104)."""
LAUNCH_FAILED = "719"


@pytest.mark.parametrize("mode", ["dlsym", "proc1", "proc2", "default", "next"])
def test_every_way_of_resolving_leads_to_the_hook(start: Any, gpu: Gpu, daemon: FakeDaemon, mode: str) -> None:
    program = start(**gpu.settings)
    assert program.do("resolve", mode) == ["0", "libconvgpu.so"]
    assert program.do("init", 0) == ["0"]
    assert program.do("retain", 0) == ["0"]
    program.alloc(8 * MIB)
    assert daemon.account().used == gpu.held_by(program.process.pid)


@pytest.mark.parametrize("context", ["retain", "create"])
def test_used_is_the_device_s_figure_at_every_step(start: Any, gpu: Gpu, daemon: FakeDaemon, context: str) -> None:
    program = start(**gpu.settings).ready("proc2", context)
    pid = program.process.pid
    assert daemon.account().used == gpu.held_by(pid) == daemon.account().context
    pointers = [program.alloc(256 * MIB)]
    assert daemon.account().used == gpu.held_by(pid)
    pointers += [program.alloc(1025 * 1024) for _ in range(7)]
    assert daemon.account().used == gpu.held_by(pid)
    pointers += [program.alloc(64 * 1024) for _ in range(50)]
    assert daemon.account().used == gpu.held_by(pid)
    for pointer in pointers:
        assert program.do("free", pointer) == ["0"]
        assert daemon.account().used == gpu.held_by(pid)
    assert settled(daemon)


@pytest.mark.parametrize("size_bytes", [64 * MIB, 1 * MIB])
def test_the_limit_is_exact(start: Any, gpu: Gpu, daemon: FakeDaemon, context_bytes: int, size_bytes: int) -> None:
    daemon.limit_bytes = context_bytes + 256 * MIB
    program = start(**gpu.settings).ready()
    held = 0
    while program.do("alloc", size_bytes)[0] == "0":
        held += size_bytes
    assert held == 256 * MIB
    assert daemon.account().used == gpu.held_by(program.process.pid) == daemon.limit_bytes


@pytest.mark.parametrize("room_percent", [0, 20, 40, 60, 80, 95])
@pytest.mark.parametrize("context", ["retain", "create"])
def test_a_context_that_found_no_room_is_made_when_there_is(
    start: Any, gpu: Gpu, daemon: FakeDaemon, context_bytes: int, context: str, room_percent: int
) -> None:
    daemon.others_bytes = daemon.capacity_bytes - context_bytes * room_percent // 100
    program = start(**gpu.settings)
    program.do("resolve", "proc2")
    program.do("init", 0)
    waiting = program.begin(context, 0)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.account().used == 0  # what it had is given back while it waits
    daemon.release_others(daemon.others_bytes)
    if room_percent == FRAGILE_PERCENT:
        # Measured: the last but one of its objects was refused, and libcuda does not get over that.
        assert program.result(waiting) == [LAUNCH_FAILED]
        return
    assert program.result(waiting) == ["0"]
    program.alloc(64 * MIB)
    assert daemon.account().used == context_bytes + 64 * MIB == gpu.held_by(program.process.pid)
    assert settled(daemon)


@pytest.mark.parametrize("room_percent", [0, 20, 40, 60, 80, 95])
@pytest.mark.parametrize("context", ["retain", "create"])
def test_a_context_whose_cost_is_known_waits_as_a_whole(
    start: Any, gpu: Gpu, daemon: FakeDaemon, context_bytes: int, context: str, room_percent: int
) -> None:
    daemon.context_hint_bytes = context_bytes
    daemon.others_bytes = daemon.capacity_bytes - context_bytes * room_percent // 100
    program = start(**gpu.settings)
    program.do("resolve", "proc2")
    program.do("init", 0)
    waiting = program.begin(context, 0)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.account().refusals == 0  # nothing was refused halfway
    daemon.release_others(daemon.others_bytes)
    assert program.result(waiting) == ["0"]
    program.alloc(64 * MIB)
    assert daemon.account().used == context_bytes + 64 * MIB == gpu.held_by(program.process.pid)
    assert settled(daemon)


def test_a_refused_context_leaves_the_program_alive(
    start: Any, gpu: Gpu, daemon: FakeDaemon, context_bytes: int
) -> None:
    daemon.limit_bytes = context_bytes // 2
    program = start(**gpu.settings)
    program.do("resolve", "proc2")
    program.do("init", 0)
    assert program.do("retain", 0) == [OUT_OF_MEMORY]
    daemon.limit_bytes = 2 * context_bytes
    assert program.do("retain", 0) == ["0"]
    assert daemon.account().used == gpu.held_by(program.process.pid) == context_bytes


def test_64_threads_leave_an_exact_account(start: Any, gpu: Gpu, daemon: FakeDaemon, context_bytes: int) -> None:
    daemon.others_bytes = daemon.capacity_bytes - context_bytes - 96 * MIB
    program = start(**gpu.settings).ready()
    pairs, failures = map(int, program.result(program.begin("stress", 64, 1), timeout_s=60))
    assert (failures, pairs > 64) == (0, True)
    assert daemon.account().used == gpu.held_by(program.process.pid)
    assert settled(daemon)


# ---- Every other path to device memory ----

PATHS = {
    "pitch": f"cuMemAllocPitch_v2 @ @ 1 {16384 * 4} 4",
    "vmm": f"cuMemCreate @ {32 * MIB} {{1,1,0}} 0",
    "array": f"cuArrayCreate_v2 @ {{2048,4096,{0x20 | 1 << 32}}}",
    "array 3D": f"cuArray3DCreate_v2 @ {{2048,1024,4,{0x20 | 1 << 32},0}}",
    "mipmapped": f"cuMipmappedArrayCreate @ {{2048,2048,0,{0x20 | 1 << 32},0}} 4",
    "async": f"cuMemAllocAsync @ {100 * MIB} 0",
    "stack": "cuCtxSetLimit 0 8192",
}


def has_call(program: Program, call: str) -> None:
    if program.do("dlsym", call.split()[0])[0] == "0":
        pytest.skip(f"this driver has no {call.split()[0]}")


@pytest.mark.parametrize("path", PATHS)
def test_every_path_is_exact_and_waits(start: Any, gpu: Gpu, daemon: FakeDaemon, path: str) -> None:
    program = start(**gpu.settings).ready()
    has_call(program, PATHS[path])
    before = daemon.account().used
    daemon.others_bytes = daemon.capacity_bytes - before
    waiting = program.begin("&call", PATHS[path])
    daemon.until(lambda: len(daemon.waiting()) == 1)
    daemon.release_others(daemon.others_bytes)
    assert program.result(waiting)[0] == "0"
    assert daemon.account().used == gpu.held_by(program.process.pid) > before
    assert settled(daemon)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_ends_at_the_limit_and_the_program_goes_on(
    start: Any, gpu: Gpu, daemon: FakeDaemon, context_bytes: int, path: str
) -> None:
    daemon.limit_bytes = context_bytes + 2 * MIB
    program = start(**gpu.settings).ready()
    has_call(program, PATHS[path])
    assert program.do("call", PATHS[path])[0] == OUT_OF_MEMORY
    daemon.limit_bytes = 6 * GIB
    assert program.do("call", PATHS[path])[0] == "0"
    assert daemon.account().used == gpu.held_by(program.process.pid)


def test_managed_memory_is_charged_and_is_not_the_device_s(start: Any, gpu: Gpu, daemon: FakeDaemon) -> None:
    program = start(**gpu.settings).ready()
    has_call(program, "cuMemAllocManaged")
    before = daemon.account().used
    code, pointer = program.do("call", "cuMemAllocManaged", "@", 256 * MIB, 1)
    assert code == "0"
    assert daemon.account().managed == 256 * MIB
    assert daemon.account().used == gpu.held_by(program.process.pid) >= before
    assert program.do("free", pointer) == ["0"]
    assert daemon.account().managed == 0


def test_a_capture_on_the_device_waits_for_nothing(start: Any, gpu: Gpu, daemon: FakeDaemon) -> None:
    program = start(**gpu.settings).ready()
    has_call(program, "cuStreamBeginCapture_v2")
    stream = program.do("call", "cuStreamCreate", "@", 1)[1]
    relaxed = 2
    assert program.do("call", "cuStreamBeginCapture_v2", stream, relaxed)[0] == "0"
    daemon.others_bytes = daemon.capacity_bytes - daemon.account().used
    assert program.do("alloc", 64 * MIB)[0] == OUT_OF_MEMORY
    assert program.do("call", "cuStreamEndCapture", stream, "@")[0] == "0"
    waiting = program.begin("&alloc", 64 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    daemon.release_others(64 * MIB)
    assert program.result(waiting)[0] == "0"


def test_a_warm_pool_on_the_device_asks_nobody(start: Any, gpu: Gpu, daemon: FakeDaemon) -> None:
    program = start(**gpu.settings).ready()
    has_call(program, "cuMemAllocAsync")
    program.do("time_async", 10, 1000)
    before = len(daemon.asked())
    assert float(program.do("time_async", 1000, 1000)[0]) > 0
    assert len(daemon.asked()) == before


def test_memory_that_is_released_while_mapped_stays_until_it_is_unmapped(
    start: Any, gpu: Gpu, daemon: FakeDaemon
) -> None:
    program = start(**gpu.settings).ready()
    has_call(program, "cuMemMap")
    size_bytes = 64 * MIB
    before = daemon.account().used
    handle = program.do("call", "cuMemCreate", "@", size_bytes, "{1,1,0}", 0)[1]
    address = program.do("call", "cuMemAddressReserve", "@", size_bytes, 0, 0, 0)[1]
    assert program.do("call", "cuMemMap", address, size_bytes, 0, handle, 0)[0] == "0"
    mapped = daemon.account().used
    assert mapped >= before + size_bytes
    assert program.do("call", "cuMemRelease", handle)[0] == "0"
    assert daemon.account().used == gpu.held_by(program.process.pid) == mapped
    assert program.do("call", "cuMemUnmap", address, size_bytes)[0] == "0"
    assert daemon.account().used == gpu.held_by(program.process.pid) <= mapped - size_bytes
    assert settled(daemon)
