# SPDX-License-Identifier: Apache-2.0
"""Every way to take memory at its edges: what CUDA documents, refusals that leave nothing behind, memory of others.

The amounts of the H200 are in test_h200_table.py; what is wanted here was not measured unless it says so.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Sim, wait_until

from convgpu.core.units import GIB, MIB

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CONTEXT_BYTES = 512 * MIB

ANSWERS = {
    "pool": """
        destroy-default 1
        first-half-freed took 128 hole-filled 1 took 224
        range 0 base-equal 1 size-mib 100
        free-inside 1 free 0 free-twice 1
        trimmed-to-33 took 32 trimmed-to-0 took 0
        create 0 of-host 801
        alloc-90-of-96 0 alloc-10 2 took 96
        reserved 96 used 90
        threshold-64 took 64 used-high 90 set-high-1 1 set-high-0 0 used-high 0
        choose 0 current 1 destroy-used 0 took 32 current-default 1 known 1 free 0 took 0
        alloc-0 1 of-linear 0 free-async 0 took 0
    """,
    "vmm": """
        granularity 0 2
        create-odd 1 create-0 1 create-99 101
        reserve 0 aligned 1
        map-beyond 1 map-larger 1 map-odd 1
        map 0 map-over 1 map-next 0
        access 0 access-hole 1
        release 0 release-twice 1 retain 0 same 1 took 6
        free-mapped 1 cu-mem-free 1 unmap-half 1 unmap-both 0 took 6 release 0 0 took 0 free 0
    """,
    "capture": """
        begin-legacy 900 end-none 401 status 0
        begin 0 begin-again 401 status 1
        alloc-async 0 took 2 free-async 0 end 0 status 0
        launch 0 took 66 trimmed took 2
        global alloc-elsewhere 900 status 2 async 901 end 901 graph-null 1 alloc-after 0
        thread-local alloc-elsewhere 0 end-elsewhere 908 status 1 alloc-here 900 status 2 end 901
        relaxed alloc 0 synchronize 900 status 2 end-elsewhere 901
        per-thread begin 0 end-legacy 401 end 0
        destroy-capturing 0 alloc 0 destroyed 400
    """,
    "graph": """
        free-unlaunched 1
        launch 0 launch-again 1 took 64
        trim-used 0 took 64 free 0 free-twice 1 took 64
        other launch 0 took 64 again 0 took 64 used 64 reserved 64
        destroy 0 destroy-twice 1 took 64 free 0 trim 0 took 0
    """,
    "reset": """
        before took 340
        reset 0 retain 0 set 0 took 4
        stale pooled 1 graph 1 managed 1 stream 400 array 400 module 400
        release 0 alloc 0 took 32
    """,
    "limits": """
        stack 0 1024 heap 0 8388608 unknown 1 null 1
        set-larger-than-the-card 2 stack 1024 took 0
        three-channels 1 destroy-unknown 400
        multicast 801 v1 801
    """,
    # The first, second, fourth and ninth were measured; the others are what cudaTypedefs.h says.
    "resolve": """
        cuMemAlloc 2000 0: cuMemAlloc
        cuMemAlloc 12000 0: cuMemAlloc_v2
        cuMemAlloc 12000 2: cuMemAlloc_v2
        cuMemAllocAsync 12000 2: cuMemAllocAsync_ptsz
        cuMemAllocAsync 12000 1: cuMemAllocAsync
        cuMemAllocAsync 11010 2: null
        cuLaunchKernel 4000 2: cuLaunchKernel
        cuLaunchKernel 7000 2: cuLaunchKernel_ptsz
        cuCtxCreate 13000 0: cuCtxCreate_v4
        cuGraphInstantiate 11000 0: cuGraphInstantiate_v2
        cuGraphInstantiate 12000 0: cuGraphInstantiateWithFlags
    """,
}


@pytest.mark.parametrize("part", ANSWERS)
def test_the_edges_are_as_documented(sim: Sim, built: Callable[..., Path], part: str) -> None:
    wanted = [line.strip() for line in ANSWERS[part].strip().splitlines()]
    assert sim.output(built("ways.c", "ways", "-ldl", "-pthread"), part) == wanted


def test_a_refusal_in_the_middle_leaves_nothing_behind(sim: Sim, built: Callable[..., Path]) -> None:
    hook = built("hook.c", "hook.so", "-shared", "-fPIC", "-ldl")
    lines = sim.output(built("refused.c", "refused", "-ldl"), LD_PRELOAD=str(hook))
    found = {
        name: (int(refusals), int(out_of_memory), int(leaks))
        for name, refusals, out_of_memory, leaks in re.findall(
            r"^(\w+) refusals (\d+) out-of-memory (\d+) leaks (\d+)$", "\n".join(lines), re.MULTILINE
        )
    }
    # As many refusals as objects: 100 MiB in chunks of 32, two graphs, 41 streams, arena and heap in two parts.
    objects = {"pool": 4, "array": 1, "vmm": 1, "pitch": 1, "graph": 2, "streams": 12, "limits": 3}
    assert found == {name: (count, count, 0) for name, count in objects.items()}


def _line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def test_memory_of_another_process_is_charged_to_its_owner_alone(sim: Sim, built: Callable[..., Path]) -> None:
    """Measured on an H100: the opener is charged nothing until the owner frees it, and then all of it."""
    ipc = built("ipc.c", "ipc", "-ldl")
    owner = sim.start(ipc, "owner", stdin=subprocess.PIPE)
    assert _line(owner) == "export 0 host 1 open-own 201"
    opener = sim.start(ipc, "opener", _line(owner), stdin=subprocess.PIPE)
    assert _line(opener) == "open 0 again 0 same 1 free 1"
    assert (sim.held_by(owner.pid), sim.held_by(opener.pid)) == (GIB + CONTEXT_BYTES, CONTEXT_BYTES)
    assert sim.used() == GIB + 2 * CONTEXT_BYTES

    def go(program: subprocess.Popen[str]) -> str:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
        return _line(program)

    assert go(owner) == "free 0"
    assert (sim.held_by(owner.pid), sim.held_by(opener.pid)) == (CONTEXT_BYTES, GIB + CONTEXT_BYTES)
    assert sim.used() == GIB + 2 * CONTEXT_BYTES
    assert go(opener) == "close 0 0 thrice 1"
    assert sim.used() == 2 * CONTEXT_BYTES
    assert go(opener) == "open-gone 1"


def test_a_killed_opener_lets_go(sim: Sim, built: Callable[..., Path]) -> None:
    ipc = built("ipc.c", "ipc", "-ldl")
    owner = sim.start(ipc, "owner", stdin=subprocess.PIPE)
    _line(owner)
    opener = sim.start(ipc, "opener", _line(owner), stdin=subprocess.PIPE)
    assert _line(opener).startswith("open 0")
    owner.kill()
    wait_until(lambda: sim.held_by(opener.pid) == sim.used() == GIB + CONTEXT_BYTES, "the opener has the memory")
    opener.kill()
    wait_until(sim.empty, "and now nobody", within_s=1.0)
