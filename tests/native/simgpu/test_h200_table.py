# SPDX-License-Identifier: Apache-2.0
"""The amounts of a real H200 (driver 580), row by row, on the simulated one.

The same figures as there, by the same two witnesses: a preloaded hook that adds up the live objects of class 0x40, and
NVML. Not here: PyTorch, which does not run on the simulated libcuda, and managed memory that a kernel touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Sim, wait_until

from convgpu.core.units import GIB, MIB
from convgpu.sources import simgpu

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CONTEXT_MIB = 518

# Row of the table: after each step, MiB more than the context alone.
ROWS: dict[str, dict[str, int]] = {
    "malloc": {"allocated": 256, "freed": 0},
    "large": {"allocated": 2000, "freed": 0},  # 1000 x 1025 KiB
    "small": {"allocated": 64, "freed": 0},  # 1000 x 64 KiB
    "pitch": {"allocated": 512, "freed": 0, "volume": 512},  # 1 Mi rows of 1 B
    "array": {"array-1000": 4, "array-8192": 256, "freed": 0, "mipmapped": 86, "mipmapped-freed": 0},
    "managed": {"allocated": 0, "touched": 0, "freed": 0},
    "pinned": {"allocated": 0, "freed": 0},
    "async": {"first": 128, "second": 224, "freed": 224, "synchronised": 0},
    "threshold": {"synchronised": 128, "trimmed": 0},
    "vmm": {"created": 1024, "mapped": 1024, "released": 1024, "unmapped": 0},
    "stack": {"8KiB": 1848, "loaded": 1848, "launched": 0, "64KiB": 16632},
    "heap": {"set": 0, "loaded": 138, "launched": 4236},
    "streams": {"8": 4, "64": 34, "256": 140},
    "graph": {"built": 0, "launched": 512, "trimmed": 0},
    "second-context": {"created": CONTEXT_MIB, "destroyed": 0},
}

# Traced on an H100: what libcuda asks for, before the driver rounds it.
ASKED_BYTES = {("array", "array-1000"): 4128768, ("stack", "8KiB"): 2370306048, ("async", "first"): 33554432}

WITNESSES = ("hook", "nvml", "device")
STEP = re.compile(r"step (\S+) (hook \d+ nvml \d+ device \d+) asked (\d+)$")


@pytest.fixture(scope="module")
def h200(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    """As large as an H200, with contexts that cost what they cost there."""
    run_dir = tmp_path_factory.mktemp("h200")
    simgpu.up(run_dir, memory_bytes=140 * GIB, context_bytes=CONTEXT_MIB * MIB)
    yield Sim(run_dir)
    simgpu.down(run_dir)


@pytest.fixture(scope="module", params=["static", "shared"])
def table_program(request: pytest.FixtureRequest, built: Callable[..., Path]) -> Path:
    folder = simgpu.library_dir()
    library = folder / ("libcudart_static.a" if request.param == "static" else "libcudart.so")
    return built("h200_table.c", f"h200_table_{request.param}", str(library), "-ldl", "-pthread")


@pytest.mark.parametrize("row", ROWS)
def test_hook_and_nvml_agree_on_what_was_measured(
    h200: Sim, table_program: Path, built: Callable[..., Path], row: str
) -> None:
    hook = built("hook.c", "hook.so", "-shared", "-fPIC", "-ldl")
    lines = h200.output(table_program, row, LD_PRELOAD=str(hook))
    found = [match.groups() for match in map(STEP.match, lines) if match]
    wanted = {"context": CONTEXT_MIB, **{name: CONTEXT_MIB + more for name, more in ROWS[row].items()}, "reset": 0}
    assert [(name, held) for name, held, _ in found] == [
        (name, " ".join(f"{who} {mib * MIB}" for who in WITNESSES)) for name, mib in wanted.items()
    ]
    asked = {(row, name): int(size) for name, _, size in found}
    assert {step: asked[step] for step in ASKED_BYTES if step in asked} == {
        step: size for step, size in ASKED_BYTES.items() if step[0] == row
    }
    wait_until(h200.empty, "nothing is left")
