# SPDX-License-Identifier: Apache-2.0
"""Containers that get around the wrapper are found: real containers, real probes, a real page; the GPU is simulated."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convgpu.core.identity import ContainerId
from convgpu.core.units import GIB, MIB
from convgpu.native import native_dir
from convgpu.sources import simgpu
from convgpu.sources.docker import Docker
from convgpu.testing.stage import (
    IMAGE,
    SIMULATED_STORY,
    Stage,
    StageContainer,
    output_of,
    remove_containers,
    wait_until,
)

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse, pytest.mark.bpf]

CONTEXT_BYTES = 512 * MIB
WITHIN_MS = 2000
SOURCE = Path(__file__).parent / "outlaw.c"
OUTLAW, STATIC_OUTLAW = "/stage/outlaw", "/stage/outlaw-static"


@pytest.fixture(autouse=True)
def _capacity(stage: Stage) -> Iterator[None]:
    """What a container takes past the wrapper lowers the capacity until two seconds after its end."""
    yield
    remove_containers(tuple(stage.names))
    wait_until("all of the GPU is there again", lambda: stage.snapshot()["gpus"][0]["capacity_bytes"] == 10 * GIB)


@pytest.fixture(autouse=True)
def _outlaws(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build the program twice: with the simulated runtime, and statically, so that nothing can be preloaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    libraries = simgpu.library_dir()
    common = [compiler, "-O1", f"-I{native_dir() / 'include'}", str(SOURCE)]
    cuda = ["-DOUTLAW_CUDA", f"-I{libraries / 'include'}", f"-L{libraries}", "-lcudart", "-ldl"]
    subprocess.run([*common, *cuda, "-o", str(stage.folder / "outlaw")], check=True)
    subprocess.run([*common, "-static", "-o", str(stage.folder / "outlaw-static")], check=True)


def plain_run(stage: Stage, name: str, label: str, *command: str) -> StageContainer:
    """Start a container as somebody does who knows nothing of `convgpu run`: the GPU, a label, and no mounts."""
    container = stage.container(name, "0")
    words = ["docker", "run", "-d", "--name", name, "--label", label, "--label", "convgpu-stage=1", "--network", "none"]
    mounts = ["-v", "/usr:/usr:ro", "-v", f"{stage.folder}:/stage"]
    entry = ["--entrypoint", command[0], IMAGE, *command[1:]]
    container.id = output_of(*words, *mounts, *stage.docker, *entry).strip()
    return container


def outlaw(stage: Stage, name: str, program: str, *steps: str) -> StageContainer:
    """Start a container with a limit as one should, and a program in it that gets around it."""
    container = stage.container(name, "4GiB")
    container.run(program, *steps, "hold=600")
    return container


def found(stage: Stage, container: StageContainer, step: str) -> dict[str, Any]:
    """Wait for a finding about a container; it must have come within two seconds of a step."""
    line = container.wait_for(step)
    assert line["code"] in ("0", "cudaSuccess")
    record: dict[str, Any] = stage.log().wait("finding.raised", container.name)
    assert record["mono_ns"] // 1_000_000 - int(line["ms"]) <= WITHIN_MS
    return record


def states(command: Any) -> dict[str, str]:
    """Return the column STATE of `convgpu ps`, by name."""
    rows = [line.split("   ") for line in command("convgpu", "ps").stdout.splitlines()[1:]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[1]: row[3] for row in cells}


def test_a_container_without_the_wrapper(stage: Stage, command: Any) -> None:
    steps = ("name=bare", "alloc=1GiB", "hold=600")
    container = plain_run(stage, "bare", "convgpu.limit=4GiB", SIMULATED_STORY, *steps)
    record = found(stage, container, "alloc")
    assert record["finding"] == "unwrapped"
    assert record["used_bytes"] is None
    assert record["witness_bytes"] == record["nvml_bytes"] == CONTEXT_BYTES + GIB
    assert [process["comm"] for process in record["processes"]] == ["story"]
    assert states(command)["bare"] == "running (unwrapped)"
    (finding,) = stage.listing()["bare"]["findings"]
    assert (finding["kind"], finding["action"]) == ("unwrapped", "log")
    container.kill()
    cleared = stage.log().wait("finding.cleared", "bare")
    assert cleared["reason"] == "the container has ended"


def test_a_program_that_nothing_can_be_preloaded_into(stage: Stage) -> None:
    container = outlaw(stage, "static", STATIC_OUTLAW, f"raw={GIB}")
    record = found(stage, container, "raw")
    assert (record["finding"], record["witness_bytes"]) == ("unwrapped", GIB)


def test_system_calls_of_its_own(stage: Stage, command: Any) -> None:
    container = outlaw(stage, "raw", OUTLAW, f"cuda={64 * MIB}", f"raw={GIB}")
    record = found(stage, container, "raw")
    assert record["finding"] == "bypass"
    assert record["used_bytes"] == CONTEXT_BYTES + 64 * MIB
    assert record["witness_bytes"] == record["nvml_bytes"] == CONTEXT_BYTES + 64 * MIB + GIB
    assert states(command)["raw"] == "running (bypass)"


def test_a_driver_library_in_a_namespace_of_its_own(stage: Stage) -> None:
    container = outlaw(stage, "apart", OUTLAW, f"cuda={64 * MIB}", f"dlmopen={GIB}")
    record = found(stage, container, "dlmopen")
    assert record["finding"] == "bypass"
    assert record["used_bytes"] == CONTEXT_BYTES + 64 * MIB
    assert record["witness_bytes"] >= record["used_bytes"] + GIB


@pytest.mark.parametrize("field", ["credit", "limit"])
def test_a_program_that_writes_into_its_page(stage: Stage, command: Any, field: str) -> None:
    container = outlaw(stage, f"liar-{field}", OUTLAW, f"cuda={64 * MIB}", f"{field}={GIB}")
    record = found(stage, container, field)
    assert record["finding"] == "tampered"
    assert record["witness_bytes"] == record["nvml_bytes"] == CONTEXT_BYTES + 64 * MIB
    assert states(command)[f"liar-{field}"] == "running (tampered)"


def test_a_program_that_takes_bytes_out_of_its_page(stage: Stage) -> None:
    # The daemon has to have seen page and witness agree before: that takes a round.
    container = outlaw(stage, "liar-used", OUTLAW, f"cuda={256 * MIB}", "hold=2", f"used={CONTEXT_BYTES}")
    record = found(stage, container, "used")
    assert (record["finding"], record["used_bytes"]) == ("tampered", CONTEXT_BYTES)
    assert record["witness_bytes"] == CONTEXT_BYTES + 256 * MIB


def test_a_program_that_keeps_to_its_limit_is_never_found(stage: Stage) -> None:
    steps = ["alloc=64MiB", "free"] * 40
    container = stage.story("honest", "2GiB", *steps, "alloc=512MiB", "try=2GiB", "info", "hold=600")
    container.wait_for("info")
    time.sleep(3)
    assert stage.log().find("finding.raised", "honest") is None
    assert stage.listing()["honest"]["findings"] == []


def test_the_door_pauses_and_stops_one_container(stage: Stage) -> None:
    first = stage.story("first", "1GiB", "alloc=64MiB", "hold=600")
    second = stage.story("second", "1GiB", "alloc=64MiB", "hold=600")
    for container in (first, second):
        container.wait_for("alloc")
    door = Docker()
    door.pause(ContainerId(first.id))
    wait_until("it is shown", lambda: stage.listing()["first"]["state"] == "paused")
    door.stop(ContainerId(second.id))
    wait_until("it is gone", lambda: "second" not in stage.listing())
    assert stage.listing()["first"]["state"] == "paused"
    assert stage.log().find("finding.raised", "first") is None  # to be frozen is no offence
    door.close()
    output_of("docker", "unpause", "first")


def test_a_trace_shows_every_allocation(stage: Stage) -> None:
    steps = [*(["alloc=3000017"] * 97), "free"]
    container = stage.story("traced", "2GiB", "alloc=2MiB", "wait-file=/stage/traced-go", *steps, "info", "hold=600")
    container.wait_for("alloc")
    tracing = subprocess.Popen(
        ["convgpu", "trace", "traced", "--format", "jsonl", "--duration", "8s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    stage.tell("traced-go")
    container.wait_for("info")
    shown, losses = tracing.communicate(timeout=30)
    assert tracing.returncode == 0
    assert losses == ""
    events = [json.loads(line) for line in shown.splitlines()]
    assert {(event["container_name"], event["comm"]) for event in events} == {("traced", "story")}
    taken = [(event["source"], event["size_bytes"]) for event in events if event["kind"] == "alloc"]
    assert taken.count(("boundary", 4 * MIB)) == 97
    assert taken.count(("runtime", 3_000_017)) == 97
    given_back = [event["size_bytes"] for event in events if (event["kind"], event["source"]) == ("free", "boundary")]
    assert sum(given_back) == 97 * 4 * MIB + 2 * MIB
    moments = [event["mono_ns"] for event in events if event["source"] == "boundary"]
    assert moments == sorted(moments)
