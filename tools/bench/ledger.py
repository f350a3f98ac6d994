# SPDX-License-Identifier: Apache-2.0
"""The ledger against NVML and against the witness, at every step of programs that use all ways to take memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from bench import Bench, settled
from session import Session

from convgpu.testing.stage import Stage, StageError

MIB: Final = 1 << 20
_LIMIT: Final = "9GiB"
_REAL_LIMIT: Final = "40GiB"
_ALLOCATORS: Final = (
    ("native", ""),
    ("expandable_segments", "expandable_segments:True"),
    ("cudaMallocAsync", "backend:cudaMallocAsync"),
)


def measure(bench: Bench) -> None:
    """Step through the table's program, and through PyTorch with each of its allocators."""
    limit = _REAL_LIMIT if bench.gpu.real else _LIMIT
    with bench.daemon() as stage:
        with bench.rig.wrapped("ledger_steps", limit) as session:
            _compare(bench, stage, session, "CUDA program")
        if bench.torch is None:
            bench.notes.append("PyTorch was not measured (no --torch).")
            return
        shutil.copy(Path(__file__).with_name("torch_steps.py"), bench.folder)
        for name, setting in _ALLOCATORS:
            # The image has no /etc/passwd, and PyTorch asks who runs it.
            environment = ["-e", "USER=bench", "-e", "HOME=/tmp"]
            environment += ["-e", f"PYTORCH_CUDA_ALLOC_CONF={setting}"] if setting else []
            command = [bench.torch, "/stage/torch_steps.py"]
            docker = [*bench.rig.docker, *environment]
            with Session(f"torch-{name}".lower().replace("_", "-"), limit, docker, bench.folder, command) as session:
                _compare(bench, stage, session, f"PyTorch, {name} allocator")


def _compare(bench: Bench, stage: Stage, session: Session, program: str) -> None:
    steps: list[dict[str, Any]] = []
    while True:
        try:
            line = session.read()
        except StageError as error:
            bench.row(f"{program}: goes through all its steps", str(error), "yes", holds=False)
            break
        if line == "end":
            break
        step = line.removeprefix("step ")
        found = settled(lambda: _figures(bench, stage, session.name), _agree)
        steps.append(found)
        bench.raw.add("ledger", program=program, step=step, **found)
        if not _agree(found):
            bench.row(f"{program}, at '{step}'", _in_words(found), "all the same", holds=False)
        session.tell()
    if not steps:
        return
    by_nvml = sum(step["used_bytes"] == step["nvml_bytes"] for step in steps)
    by_witness = sum(step["witness_bytes"] == step["nvml_bytes"] for step in steps)
    largest_bytes = max(abs(step["used_bytes"] - step["nvml_bytes"]) for step in steps)
    bench.row(
        f"{program}: steps at which ledger minus NVML is 0",
        f"{by_nvml} of {len(steps)}, largest difference {largest_bytes} bytes",
        "all, 0",
        holds=by_nvml == len(steps),
    )
    watched = any(step["witness_bytes"] is not None for step in steps)
    bench.row(
        f"{program}: steps at which witness minus NVML is 0",
        f"{by_witness} of {len(steps)}" if watched else "no witness",
        "all" if watched else "",
        holds=by_witness == len(steps) if watched else None,
    )


def _figures(bench: Bench, stage: Stage, name: str) -> dict[str, Any]:
    device = stage.device(name)
    seen = bench.gpu.process_bytes()
    pids = {process["pid"] for process in device["processes"]}
    return {
        "used_bytes": device["used_bytes"],
        "witness_bytes": device["witness_bytes"],
        "nvml_bytes": sum(seen.get(pid) or 0 for pid in pids),
    }


def _agree(found: dict[str, Any]) -> bool:
    return found["used_bytes"] == found["nvml_bytes"] and found["witness_bytes"] in (None, found["nvml_bytes"])


def _in_words(found: dict[str, Any]) -> str:
    def size(name: str) -> str:
        return "N/A" if found[name] is None else f"{found[name] / MIB:.3f} MiB"

    return f"ledger {size('used_bytes')}, witness {size('witness_bytes')}, NVML {size('nvml_bytes')}"
