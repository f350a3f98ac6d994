# SPDX-License-Identifier: Apache-2.0
"""libcuda and libcudart: the answers of a real driver, the amounts of the measured machines, and who holds what."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HERE, Sim, wait_until

from convgpu.core.units import GIB, KIB, MIB
from convgpu.sources import simgpu

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CONTEXT_BYTES = 512 * MIB
DRIVER_PARTS = ("before", "nocontext", "memory", "amounts", "contexts", "reset", "resolve", "fork", "errors")


def _measured() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in (HERE / "measured_driver.txt").read_text().splitlines():
        if line.startswith("== "):
            sections[line[3:]] = []
        elif not line.startswith("#"):
            sections[list(sections)[-1]].append(line)
    return sections


MEASURED = _measured()


@pytest.fixture(scope="session", params=["static", "shared"])
def runtime_program(request: pytest.FixtureRequest, built: Callable[..., Path]) -> Path:
    folder = simgpu.library_dir()
    library = folder / ("libcudart_static.a" if request.param == "static" else "libcudart.so")
    return built("cudart_behaviour.c", f"cudart_behaviour_{request.param}", str(library), "-ldl", "-pthread")


@pytest.fixture(scope="session")
def driver_program(built: Callable[..., Path]) -> Path:
    return built("cuda_behaviour.c", "cuda_behaviour", "-ldl", "-pthread")


@pytest.mark.parametrize("part", DRIVER_PARTS)
def test_the_driver_answers_as_the_real_one(sim: Sim, driver_program: Path, part: str) -> None:
    assert sim.output(driver_program, part) == MEASURED[f"driver {part}"]


@pytest.mark.parametrize("part", ["plain", "errors"])
def test_the_runtime_answers_as_the_real_one(sim: Sim, runtime_program: Path, part: str) -> None:
    assert sim.output(runtime_program, part) == MEASURED[f"runtime {part}"]


def test_the_runtime_without_a_device_answers_as_the_real_one(sim: Sim, runtime_program: Path) -> None:
    assert sim.output(runtime_program, "none", CUDA_VISIBLE_DEVICES="") == MEASURED["runtime none"]


def test_the_runtime_without_a_driver_says_so(sim: Sim, built: Callable[..., Path]) -> None:
    """As NVIDIA's static runtime answers on a machine without libcuda.so.1."""
    library = simgpu.library_dir() / "libcudart_static.a"
    program = built("cudart_behaviour.c", "cudart_behaviour_static", str(library), "-ldl", "-pthread")
    lines = sim.output(program, "none", LD_LIBRARY_PATH="")
    if "libcuda.so.1" in subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("this machine has a libcuda.so.1 of its own")
    assert lines[:3] == ["driver-version 0 positive 0", "count 35 -1 last 35", "malloc 35 last 35 last 35"]


@pytest.mark.parametrize("line", MEASURED["visible"], ids=lambda line: line.partition("]")[0] + "]")
def test_visible_devices_are_read_as_the_real_one_reads_them(sim: Sim, driver_program: Path, line: str) -> None:
    template, answer = re.fullmatch(r"\[(.*)\] (.*)", line).groups()  # type: ignore[union-attr]
    uuid = sim.status().gpus[0].uuid
    words = {"FULL": uuid, "CUT8": uuid[:12], "CUT1": uuid[:5], "BARE": uuid[4:], "UPPER": uuid[4:].upper()}
    value = re.sub(r"@(\w+)@", lambda match: words[match.group(1)], template)
    assert sim.output(driver_program, "visible", CUDA_VISIBLE_DEVICES=value) == [answer]


def test_the_libraries_say_that_they_are_simulated(sim: Sim) -> None:
    assert sim.status().gpus[0].name.startswith("Simulated")


def test_a_context_costs_what_was_configured_and_so_does_the_next(sim: Sim, story: Path) -> None:
    program = sim.start(story, "name=one", "info", f"wait-file={sim.run_dir / 'context-ends'}")
    wait_until(lambda: sim.held_by(program.pid) == CONTEXT_BYTES, "the context is charged")
    (sim.run_dir / "context-ends").touch()
    assert program.wait(timeout=10) == 0
    wait_until(sim.empty, "and given back")


@pytest.mark.parametrize(
    ("count", "size_bytes", "costs_bytes"),
    [
        (1000, 64 * KIB, 64 * MIB),
        (1000, 1025 * KIB, 2000 * MIB),
        (1, 256 * MIB, 256 * MIB),
        (1, 1, 2 * MIB),
        (3, MIB, 4 * MIB),
    ],
    ids=["1000 x 64 KiB", "1000 x 1025 KiB", "256 MiB", "1 B", "3 x 1 MiB"],
)
def test_amounts_are_those_of_the_h200(
    sim: Sim, story: Path, count: int, size_bytes: int, costs_bytes: int, tmp_path: Path
) -> None:
    """facts: a hook at the boundary and NVML agreed at each of these; here the server is asked for the process."""
    steps = [f"alloc={size_bytes}"] * count
    words = ["name=amount", *steps, "info", f"wait-file={tmp_path / 'go'}", "free", "info"]
    program = sim.start(story, *words, output=tmp_path / "lines")
    wait_until(lambda: sim.held_by(program.pid) == CONTEXT_BYTES + costs_bytes, f"{count} x {size_bytes}")
    (tmp_path / "go").touch()
    assert program.wait(timeout=30) == 0
    lines = (tmp_path / "lines").read_text().splitlines()
    free_bytes = [int(re.search(r"free_bytes=(\d+)", line)[1]) for line in lines if "step=info" in line]
    assert free_bytes == [10 * GIB - CONTEXT_BYTES - costs_bytes, 10 * GIB - CONTEXT_BYTES]


def test_a_full_device_is_out_of_memory_and_nothing_worse(sim: Sim, story: Path) -> None:
    lines = sim.output(story, "name=full", "try=9728MiB", "try=1", "info", "free", "try=9728MiB")
    codes = [re.search(r"code=(\w+)", line)[1] for line in lines if "code=" in line]
    assert codes == ["cudaSuccess", "cudaErrorMemoryAllocation", "cudaSuccess", "cudaSuccess", "cudaSuccess"]
    assert "free_bytes=0 " in next(line for line in lines if "step=info" in line)


def test_a_context_that_does_not_fit_leaves_nothing_behind(sim: Sim, story: Path) -> None:
    rm = sim.client()
    assert rm.memory(rm.device(), 10 * GIB - 511 * MIB)[0] == 0
    before_bytes = sim.used()
    done = sim.run(story, "name=late", "alloc=1MiB")
    assert (done.returncode, sim.used()) == (1, before_bytes)
    assert "cudaErrorMemoryAllocation" in done.stdout
    assert "out of memory" in done.stderr


def test_a_killed_program_gives_everything_back(sim: Sim, story: Path) -> None:
    done = sim.run(story, "name=gone", "alloc=4GiB", "alloc=1KiB", "kill")
    assert done.returncode == -9
    wait_until(sim.empty, "all of it", within_s=1.0)


@pytest.mark.parametrize("how", [(), ("async",)], ids=["plain", "in streams"])
def test_threads_never_share_a_byte_and_leak_none(sim: Sim, built: Callable[..., Path], how: tuple[str, ...]) -> None:
    library = simgpu.library_dir() / "libcudart_static.a"
    program = built("threads.c", "threads", str(library), "-ldl", "-pthread")
    assert sim.output(program, *how) == ["leaked 0 overlaps 0 failures 0"]


def test_two_gpus_are_chosen_by_index_and_by_uuid(two_gpus: Sim, story: Path, driver_program: Path) -> None:
    uuids = [gpu.uuid for gpu in two_gpus.status().gpus]
    for visible, used_index in (("0", 0), ("1", 1), ("1,0", 1), (uuids[1], 1), (f"{uuids[0]},{uuids[1]}", 0)):
        program = two_gpus.start(story, "name=two", "alloc=1GiB", "hold=60", CUDA_VISIBLE_DEVICES=visible)
        wait_until(lambda: two_gpus.held_by(program.pid, used_index) == GIB + CONTEXT_BYTES, f"{visible}")  # noqa: B023
        assert two_gpus.used(1 - used_index) == 0
        program.kill()
        wait_until(two_gpus.empty, "killed")
    counts = {
        visible: two_gpus.output(driver_program, "visible", CUDA_VISIBLE_DEVICES=visible)[0].split()[-1]
        for visible in ("0,1", "1", "1,0", uuids[0], uuids[0][:20])
    }
    # The last names both: a UUID cut so short that it is not unique names nothing.
    assert counts == {"0,1": "2", "1": "1", "1,0": "2", uuids[0]: "1", uuids[0][:20]: "-1"}


@pytest.fixture(scope="session")
def hook(built: Callable[..., Path]) -> Path:
    return built("hook.c", "hook.so", "-shared", "-fPIC", "-ldl")


@pytest.mark.parametrize("program", ["story", "story-static"])
def test_a_preloaded_hook_sees_every_allocation(sim: Sim, hook: Path, program: str) -> None:
    path = simgpu.library_file(f"bin/{program}")
    lines = sim.output(path, "name=seen", "alloc=1GiB", "alloc=5MiB", "alloc=64KiB", "free", LD_PRELOAD=str(hook))
    objects = 17 + 3  # of the context, and ours
    assert lines[-1] == (
        f"boundary allocations {objects} bytes {CONTEXT_BYTES + GIB + 6 * MIB + 2 * MIB} frees 3 overridden 0"
    )


def test_what_a_hook_refuses_is_out_of_memory(sim: Sim, hook: Path, story: Path) -> None:
    """Facts: status 0x51 and return value 0 is the refusal that a program understands."""
    lines = sim.output(story, "name=no", "try=1GiB", "try=1GiB", "info", LD_PRELOAD=str(hook), SIMGPU_HOOK_LIMIT="18")
    assert [re.search(r"code=(\w+)", line)[1] for line in lines[1:4]] == [
        "cudaSuccess",
        "cudaErrorMemoryAllocation",
        "cudaSuccess",
    ]


@pytest.mark.parametrize("allowed", range(17))
def test_a_context_refused_halfway_can_be_made_later_but_for_one_of_its_objects(
    sim: Sim, hook: Path, story: Path, allowed: int
) -> None:
    """As measured on an H100: only the refusal of the last but one leaves the process with 719 for good."""
    steps = ("name=half", "try=2MiB", "free", "try=2MiB")
    done = sim.run(story, *steps, LD_PRELOAD=str(hook), SIMGPU_HOOK_LIMIT=str(allowed), SIMGPU_HOOK_REFUSALS="1")
    codes = re.findall(r"step=try .*code=(\w+)", done.stdout)
    assert codes == ["cudaErrorMemoryAllocation", "cudaErrorLaunchFailure" if allowed == 15 else "cudaSuccess"]


def test_a_process_in_namespaces_of_its_own_is_charged_under_its_host_pid(sim: Sim, story: Path) -> None:
    """As in a container: another pid namespace, another mount namespace with the files bind-mounted into /dev."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare command")
    inside = (
        f"mount --bind {sim.device_dir} /mnt && mount -t tmpfs none /dev && touch /dev/nvidiactl && "
        f"mount --bind /mnt/nvidiactl /dev/nvidiactl && umount /mnt && "
        f"exec {story} name=inside alloc=1GiB hold=60"
    )
    environment = {simgpu.DEVICE_ENVIRONMENT: ""}  # found in /dev, as in a container
    words = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
    outer = sim.start(*words, **environment)
    wait_until(lambda: sim.used() == GIB + CONTEXT_BYTES, "charged")
    (pid,) = sim.status().gpus[0].process_bytes
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Name:\tstory" in status
    assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE)  # pid 1 inside
    outer.kill()
    wait_until(sim.empty, "the namespace has gone, and the memory with it")


@pytest.mark.parametrize("name", ["libcuda.so.1", "libcudart.so.13", "libnvidia-ml.so.1"])
def test_libraries_run_on_an_old_glibc(name: str) -> None:
    """Images bring their own libc: symbols up to GLIBC_2.17 only."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump command")
    symbols = subprocess.run(
        ["objdump", "-T", str(simgpu.library_file(name))], capture_output=True, text=True, check=True
    ).stdout
    versions = {tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([\d.]+)", symbols)}
    assert versions
    assert max(versions) <= (2, 17)


def test_the_story_reports_steps_and_refuses_nonsense(sim: Sim, story: Path, tmp_path: Path) -> None:
    lines = sim.output(story, "name=tale", "alloc=1MiB", "hold=0.01", f"wait-file={tmp_path}", "free", "info")
    assert all(re.fullmatch(r"\d+ name=tale step=[a-z-]+ \S+=.*", line) for line in lines)
    steps = [re.search(r"step=([a-z-]+)", line)[1] for line in lines]
    assert steps == ["start", "alloc", "hold", "wait-file", "free", "info", "end"]
    assert sim.run(story, "exit=3").returncode == 3
    assert sim.run(story, "alloc=500GiB").returncode == 1
    for nonsense in ("alloc=4GB", "alloc=-1", "until=1GiB", "hold=soon", "dance", "free=1", "exit=256", "try="):
        done = sim.run(story, nonsense)
        assert (done.returncode, bool(done.stderr)) == (2, True), nonsense


def test_the_story_tries_until_it_succeeds(sim: Sim, story: Path) -> None:
    rm = sim.client()
    status, handle = rm.memory(rm.device(), 9 * GIB)
    assert status == 0
    program = sim.start(story, "name=patient", "until=1GiB:0.01")
    assert program.stdout is not None
    program.stdout.readline()
    assert "code=cudaErrorMemoryAllocation" in program.stdout.readline()
    assert rm.free(handle) == 0
    assert "code=cudaSuccess" in program.communicate(timeout=10)[0].splitlines()[-2]
