# SPDX-License-Identifier: Apache-2.0
"""Every way to device memory beside cuMemAlloc: reserved and waited for at the call, settled at the boundary."""

from __future__ import annotations

from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_process import CONTEXT_BYTES, MIB, NOWAIT, OUT_OF_MEMORY, Program, settled

FLOAT_ONE_CHANNEL = 0x20 | 1 << 32
ON_DEVICE, ON_HOST = "{1,1,0}", "{1,2,0}"
"""CUmemAllocationProp: pinned, then the kind of place and its number."""

SIZED = {
    "pitch": (f"cuMemAllocPitch_v2 @ @ 1 {16384 * 4} 4", 32 * MIB),
    "vmm": (f"cuMemCreate @ {32 * MIB} {ON_DEVICE} 0", 32 * MIB),
    "array": (f"cuArrayCreate_v2 @ {{2048,4096,{FLOAT_ONE_CHANNEL}}}", 32 * MIB),
    "array 3D": (f"cuArray3DCreate_v2 @ {{2048,1024,4,{FLOAT_ONE_CHANNEL},0}}", 32 * MIB),
    "mipmapped": (f"cuMipmappedArrayCreate @ {{2048,2048,0,{FLOAT_ONE_CHANNEL},0}} 4", 22 * MIB),
    "stack": (f"cuCtxSetLimit 0 {5 * 1024}", 32 * MIB),
}
"""Calls whose arguments tell what they take, with what the driver takes for them."""
UNSIZED = {
    "async": ("cuMemAllocAsync @ 1000 0", 32 * MIB),
    "async, stream of the thread": ("cuMemAllocAsync_ptsz @ 1000 0", 32 * MIB),
    "from a pool": ("cuMemAllocFromPoolAsync @ 1000 0 0", 32 * MIB),
    "graph": ("cuGraphLaunch @ 0", 16 * MIB),
    "module": ("cuModuleLoadData @ 0", 4 * MIB),
}


def full(daemon: FakeDaemon, start: Any, **settings: object) -> Program:
    """A program with a context, on a device that others have filled otherwise."""
    program: Program = start(**settings).ready()
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
    return program


@pytest.mark.parametrize("name", [*SIZED, *UNSIZED])
def test_is_charged_and_waits(start: Any, daemon: FakeDaemon, name: str) -> None:
    call, taken_bytes = (SIZED | UNSIZED)[name]
    program = full(daemon, start)
    waiting = program.begin("&call", call)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.waiting()[0].size_bytes == taken_bytes
    assert daemon.waiting()[0].api != 0
    assert daemon.account().refusals == (1 if name in UNSIZED else 0)  # a known size is asked for before the driver is
    daemon.release_others(taken_bytes)
    assert program.result(waiting)[0] == "0"
    assert daemon.account().used == CONTEXT_BYTES + taken_bytes
    assert settled(daemon)


@pytest.mark.parametrize("name", [*SIZED, *UNSIZED])
def test_beyond_the_limit_is_out_of_memory(start: Any, daemon: FakeDaemon, name: str) -> None:
    daemon.limit_bytes = CONTEXT_BYTES + 2 * MIB
    program = start().ready()
    assert program.do("call", (SIZED | UNSIZED)[name][0])[0] == OUT_OF_MEMORY
    assert daemon.account().used == CONTEXT_BYTES
    assert settled(daemon)


def test_a_bound_beyond_the_limit_is_left_to_the_boundary(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = CONTEXT_BYTES + 16 * MIB
    program = start().ready()
    two_channels = 0x20 | 2 << 32  # the driver of these tests takes half of what the descriptor says
    assert program.do("call", "cuArrayCreate_v2", "@", f"{{2048,2048,{two_channels}}}")[0] == "0"
    assert daemon.account().used == daemon.limit_bytes


def test_memory_of_the_host_is_not_charged(start: Any, daemon: FakeDaemon) -> None:
    program = full(daemon, start)
    assert program.do("call", "cuMemCreate", "@", 1 << 34, ON_HOST, 0)[0] == "0"
    assert daemon.waiting() == []
    assert daemon.account().used == CONTEXT_BYTES


def test_an_array_without_memory_of_its_own_is_not_reserved(start: Any, daemon: FakeDaemon) -> None:
    program = full(daemon, start)
    before = len(daemon.asked())
    sparse = 0x40
    program.begin("&call", "cuArray3DCreate_v2", "@", f"{{2048,1024,4,{FLOAT_ONE_CHANNEL},{sparse}}}")
    daemon.until(lambda: len(daemon.asked()) > before)
    assert daemon.asked()[before].flags & NOWAIT  # the boundary: the driver was asked first


def test_a_warm_pool_says_nothing_to_the_daemon(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    program.do("call", "cuMemAllocAsync", "@", 1000, 0)
    before = len(daemon.messages)
    for _ in range(10):
        code, pointer = program.do("call", "cuMemAllocAsync", "@", 1000, 0)
        assert code == "0"
        assert program.do("call", "cuMemFreeAsync", pointer, 0)[0] == "0"
    assert len(daemon.messages) == before
    assert daemon.account().used == CONTEXT_BYTES + 32 * MIB


def test_a_trimmed_pool_is_announced(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    _, pointer = program.do("call", "cuMemAllocAsync", "@", 1000, 0)
    daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES - 32 * MIB
    waiting = program.begin("&alloc", 16 * MIB)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    program.do("call", "cuMemFreeAsync", pointer, 0)
    assert len(daemon.waiting()) == 1
    assert program.do("call", "cuMemPoolTrimTo", 0, 0)[0] == "0"
    assert program.result(waiting)[0] == "0"


# ---- Captures ----


@pytest.mark.parametrize("call", [f"alloc {16 * MIB}", "call cuMemAllocAsync @ 1000 3"])
def test_nobody_waits_while_a_stream_captures(start: Any, daemon: FakeDaemon, call: str) -> None:
    program = full(daemon, start)
    assert program.do("call", "cuStreamBeginCapture_v2", 3, 0)[0] == "0"
    assert program.do("call", "cuStreamEndCapture", 4, "@")[0] == "401"  # none ended: none is counted off
    assert program.do(*call.split(" ", 1))[0] == OUT_OF_MEMORY
    assert daemon.waiting() == []
    assert program.do("call", "cuStreamEndCapture", 3, "@")[0] == "0"
    program.begin("&" + call.split(" ")[0], call.split(" ", 1)[1])
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert settled(daemon)


def test_a_capture_that_nobody_saw_begin_is_asked_for(start: Any, daemon: FakeDaemon) -> None:
    program = full(daemon, start)
    assert program.do("call", "cuFakeCapture", 3)[0] == "0"
    assert program.do("call", "cuMemAllocAsync", "@", 1000, 3)[0] == OUT_OF_MEMORY
    program.begin("&call", "cuMemAllocAsync", "@", 1000, 4)
    daemon.until(lambda: len(daemon.waiting()) == 1)


# ---- Managed memory ----


def test_managed_memory_counts_against_the_limit_under_its_own_heading(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = CONTEXT_BYTES + 64 * MIB
    program = start().ready()
    code, pointer = program.do("call", "cuMemAllocManaged", "@", 48 * MIB, 1)
    assert code == "0"
    account = daemon.account()
    assert (account.used, account.managed) == (CONTEXT_BYTES, 48 * MIB)
    assert settled(daemon)
    assert program.do("info") == ["0", str(16 * MIB), str(daemon.limit_bytes)]
    assert program.do("alloc", 32 * MIB)[0] == OUT_OF_MEMORY
    assert program.do("call", "cuMemAllocManaged", "@", 32 * MIB, 1)[0] == OUT_OF_MEMORY
    assert program.do("free", pointer) == ["0"]
    assert daemon.account().managed == 0
    assert settled(daemon)
    program.alloc(64 * MIB)


def test_managed_memory_waits(start: Any, daemon: FakeDaemon) -> None:
    program = full(daemon, start)
    waiting = program.begin("&call", "cuMemAllocManaged", "@", 32 * MIB + 1, 1)
    daemon.until(lambda: len(daemon.waiting()) == 1)
    assert daemon.waiting()[0].size_bytes == 32 * MIB + 4096
    daemon.release_others(33 * MIB)
    assert program.result(waiting)[0] == "0"
    assert daemon.account().managed == 32 * MIB + 4096


def test_managed_memory_that_the_driver_refuses_is_not_charged(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    assert program.do("call", "cuMemAllocManaged", "@", 32 * MIB, 0)[0] == "1"
    assert program.do("call", "cuMemAllocManaged", "@", 0, 1)[0] == "1"
    assert program.do("call", "cuMemAllocManaged", 0, 32 * MIB, 0)[0] == "1"
    assert daemon.account().managed == 0
    assert settled(daemon)


def test_a_pointer_freed_twice_is_given_back_once(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    _, kept = program.do("call", "cuMemAllocManaged", "@", 8 * MIB, 1)
    _, pointer = program.do("call", "cuMemAllocManaged", "@", 16 * MIB, 1)
    assert program.do("free", pointer) == ["0"]
    assert program.do("free", pointer) == ["1"]
    assert daemon.account().managed == 8 * MIB
    assert program.do("free", kept) == ["0"]
    assert settled(daemon)


@pytest.mark.parametrize("end", ["cuDevicePrimaryCtxReset_v2 0", "cuDevicePrimaryCtxRelease_v2 0", "cuCtxDestroy_v2"])
def test_managed_memory_ends_with_its_context(start: Any, daemon: FakeDaemon, end: str) -> None:
    own = end == "cuCtxDestroy_v2"
    program = start().ready(context="create" if own else "retain")
    program.do("call", "cuMemAllocManaged", "@", 16 * MIB, 1)
    assert daemon.account().managed == 16 * MIB
    if own:
        end = f"{end} {program.do('call', 'cuCtxGetCurrent', '@')[1]}"
    assert program.do("call", end)[0] == "0"
    assert daemon.account().managed == 0
    assert daemon.account().used == 0
    assert settled(daemon)


def test_a_retained_context_that_is_released_once_keeps_its_managed_memory(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    assert program.do("retain", 0) == ["0"]
    program.do("call", "cuMemAllocManaged", "@", 16 * MIB, 1)
    assert program.do("call", "cuDevicePrimaryCtxRelease_v2", 0)[0] == "0"
    assert daemon.account().managed == 16 * MIB


# ---- View ----


def test_the_total_of_the_device_is_the_limit(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 100 * MIB
    program = start().ready()
    assert program.do("call", "cuDeviceTotalMem_v2", "@", 0) == ["0", str(100 * MIB)]


def test_the_total_is_never_more_than_the_device_has(start: Any, daemon: FakeDaemon) -> None:
    program = start(FAKE_RM_CAPACITY=64 * MIB).ready()
    assert program.do("call", "cuDeviceTotalMem_v2", "@", 0) == ["0", str(64 * MIB)]
