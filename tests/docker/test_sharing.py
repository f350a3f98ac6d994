# SPDX-License-Identifier: Apache-2.0
"""Containers share one simulated GPU: limits, waiting, live changes, deaths. Containers, probes, ioctls are real."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from convgpu.audit.verify import verify
from convgpu.core.units import GIB, MIB
from convgpu.testing.stage import SIMULATED_STORY, Stage, wait_until

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse, pytest.mark.bpf]

CONTEXT_BYTES = 512 * MIB
RESUME_WITHIN_MS = 100


def figures(stage: Stage, name: str) -> tuple[int, int, int]:
    device = stage.device(name)
    return device["used_bytes"], device["witness_bytes"], device["nvml_bytes"]


def test_ledger_witness_and_nvml_agree_to_the_byte(stage: Stage) -> None:
    # 97 allocations of a prime number of bytes: nothing here comes out right by accident.
    steps = [f"alloc={3_000_017}"] * 97
    container = stage.story("odd", "5GiB", *steps, "info", "wait-file=/stage/odd-free", "free", "hold=600")
    container.wait_for("info")
    used, witness, nvml = figures(stage, "odd")
    assert used == witness == nvml == CONTEXT_BYTES + 97 * 4 * MIB
    assert stage.device("odd")["requested_bytes"] == 97 * 3_000_017
    stage.tell("odd-free")
    container.wait_for("free")
    wait_until("all three saw the frees", lambda: figures(stage, "odd") == (CONTEXT_BYTES,) * 3)
    assert stage.device("odd")["requested_bytes"] == 0
    assert stage.device("odd")["peak_bytes"] == used


def test_a_request_above_the_limit_is_refused_at_once_and_the_program_goes_on(stage: Stage) -> None:
    container = stage.story("greedy", "1GiB", "try=2MiB", "try=2GiB", "alloc=128MiB", "info", "hold=600")
    info = container.wait_for("info")
    refused = container.step("try")
    assert refused["code"] == "cudaErrorMemoryAllocation"
    assert float(refused["took_ms"]) < RESUME_WITHIN_MS
    assert container.step("alloc")["code"] == "cudaSuccess"
    assert int(info["total_bytes"]) == GIB
    assert int(info["free_bytes"]) == GIB - CONTEXT_BYTES - 130 * MIB
    assert stage.device("greedy")["denied"] == 1
    denied = stage.log().wait("decision.denied", "greedy")
    assert (denied["reason"], denied["size_bytes"], denied["limit_bytes"]) == ("limit", 2 * GIB, GIB)


def test_the_limit_can_be_filled_to_the_last_granule(stage: Stage) -> None:
    room = GIB - CONTEXT_BYTES
    container = stage.story("full", "1GiB", f"alloc={room - 2 * MIB}", "alloc=2MiB", "try=2MiB", "info", "hold=600")
    container.wait_for("info")
    assert container.step("try")["code"] == "cudaErrorMemoryAllocation"
    assert figures(stage, "full") == (GIB, GIB, GIB)


def test_a_request_that_does_not_fit_yet_waits_for_the_other_containers_end(stage: Stage) -> None:
    first = stage.story("first", "6GiB", "alloc=4GiB", "wait-file=/stage/first-exit", "exit=0")
    first.wait_for("alloc")
    second = stage.story("second", "6GiB", "alloc=5GiB", "hold=600")
    stage.log().wait("decision.suspended", "second", 5 * GIB)
    time.sleep(0.3)
    assert second.step("alloc") == {}
    assert stage.device("second")["waiting"] == 1
    assert [entry["container_name"] for entry in stage.snapshot()["queue"]] == ["second"]
    stage.tell("first-exit")
    line = second.wait_for("alloc")
    assert line["code"] == "cudaSuccess"
    assert int(line["ms"]) - int(first.wait_for("exit")["ms"]) <= RESUME_WITHIN_MS
    assert stage.device("second")["waiting"] == 0
    assert stage.device("second")["suspended_ms"] >= 300


def test_a_free_in_one_container_wakes_a_waiter_in_another(stage: Stage) -> None:
    small = ("--guarantee", "1GiB")
    first = stage.story("first", "8GiB", "alloc=6GiB", "wait-file=/stage/first-free", "free", "hold=600", options=small)
    first.wait_for("alloc")
    second = stage.story("second", "8GiB", "alloc=5GiB", "hold=600", options=small)
    stage.log().wait("decision.suspended", "second", 5 * GIB)
    stage.tell("first-free")
    line = second.wait_for("alloc")
    assert int(line["ms"]) - int(first.wait_for("free")["ms"]) <= RESUME_WITHIN_MS


def test_a_raised_limit_lets_a_refused_program_have_it(stage: Stage, command: Any) -> None:
    container = stage.story("grower", "1GiB", "until=2GiB:0.05", "hold=600")
    wait_until("it was refused", lambda: container.step("until"))
    done = command("convgpu", "limit", "set", "grower", "4GiB")
    assert done.returncode == 0, done.stderr
    wait_until("it has it", lambda: container.step("until")["code"] == "cudaSuccess")
    assert stage.device("grower")["limit_bytes"] == 4 * GIB
    record = stage.log().wait("limit.set", "grower")
    assert (record["old_limit_bytes"], record["limit_bytes"], record["by_uid"]) == (GIB, 4 * GIB, 0)
    again = command("convgpu", "limit", "rm", "grower")
    assert again.returncode == 0, again.stderr
    assert stage.device("grower")["limit_bytes"] == GIB


def test_a_container_killed_in_the_middle_gives_everything_back(stage: Stage) -> None:
    container = stage.story("victim", "4GiB", "alloc=3GiB", "hold=600")
    container.wait_for("alloc")
    log = stage.log()
    log.follow()
    container.kill()
    gone = log.wait("process.gone", "victim")
    assert gone["used_bytes"] == CONTEXT_BYTES + 3 * GIB
    log.wait("container.gone", "victim")
    snapshot = stage.snapshot()
    assert (snapshot["containers"], snapshot["gpus"][0]["assigned_bytes"], snapshot["gpus"][0]["used_bytes"]) == (
        [],
        0,
        0,
    )


def test_a_killed_daemon_loses_nothing_and_waiters_keep_waiting(stage: Stage) -> None:
    holder = stage.story("holder", "6GiB", "alloc=4GiB", "wait-file=/stage/holder-exit", "exit=0")
    holder.wait_for("alloc")
    waiter = stage.story("waiter", "6GiB", "alloc=5GiB", "hold=600")
    stage.log().wait("decision.suspended", "waiter")
    keys = ("limit_bytes", "guarantee_bytes", "assigned_bytes", "used_bytes", "waiting")
    before = {name: [stage.device(name)[key] for key in keys] for name in ("holder", "waiter")}
    waited_ms = stage.device("waiter")["suspended_ms"]
    stage.daemon.kill()
    stage.daemon.start()
    wait_until("it asks again", lambda: stage.device("waiter")["waiting"] == 1)
    after = {name: [stage.device(name)[key] for key in keys] for name in ("holder", "waiter")}
    assert after == before
    assert stage.device("waiter")["suspended_ms"] > waited_ms
    stage.tell("holder-exit")
    assert waiter.wait_for("alloc")["code"] == "cudaSuccess"
    assert waiter.step("alloc")["took_ms"] > "0"
    assert verify(stage.daemon.log).ok


def test_a_process_started_with_docker_exec_shares_the_limit(stage: Stage, command: Any) -> None:
    container = stage.story("shared", "3GiB", "alloc=1GiB", "hold=600")
    container.wait_for("alloc")
    done = command("docker", "exec", "shared", SIMULATED_STORY, "name=second", "try=2GiB", "alloc=512MiB", "info")
    assert done.returncode == 0, done.stderr
    assert "step=try size_bytes=2147483648 code=cudaErrorMemoryAllocation" in done.stdout
    assert f"free_bytes={3 * GIB - 2 * CONTEXT_BYTES - GIB - 512 * MIB} total_bytes={3 * GIB}" in done.stdout


def test_a_wait_time_ends_in_out_of_memory(stage: Stage) -> None:
    holder = stage.story("holder", "8GiB", "alloc=7GiB", "hold=600")
    holder.wait_for("alloc")
    late = stage.story("late", "5GiB", "try=4GiB", "hold=600", options=("--wait", "1s"))
    line = late.wait_for("try")
    assert line["code"] == "cudaErrorMemoryAllocation"
    assert 900 <= float(line["took_ms"]) <= 1500
    assert stage.log().wait("decision.denied", "late")["reason"] == "wait_timeout"


def test_a_limit_above_the_device_starts_nothing(stage: Stage, command: Any) -> None:
    done = command("convgpu", "run", "--limit", "11GiB", "--", "--name", "never", "convgpu-stage", "true")
    assert done.returncode == 5
    assert "11GiB" in done.stderr
    assert "10GiB" in done.stderr
    assert command("docker", "inspect", "never").returncode != 0


def test_a_second_daemon_is_refused(stage: Stage, command: Any, tmp_path: Path) -> None:
    done = command(
        "convgpu", "daemon", "--simulated", "--run-dir", str(stage.daemon.run_dir),
        "--state-dir", str(tmp_path / "s"), "--log-dir", str(tmp_path / "l"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "another ConvGPU daemon" in done.stderr


def test_a_program_without_cuda_is_left_alone(stage: Stage) -> None:
    container = stage.container("plain", "1GiB")
    container.run("/bin/true")
    assert container.exit_code() == 0
    assert stage.log().find("process.seen", "plain") is None


MONITOR = """
import ctypes
nvml = ctypes.CDLL("libnvidia-ml.so.1")
device, count = ctypes.c_void_p(), ctypes.c_uint(8)
memory, infos = (ctypes.c_uint64 * 3)(), (ctypes.c_uint64 * 24)()
assert nvml.nvmlInit_v2() == nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
assert nvml.nvmlDeviceGetMemoryInfo(device, memory) == 0
assert nvml.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), infos) == 0
print(*memory, count.value, infos[0] & 0xFFFFFFFF, infos[1])
"""


def test_a_monitor_in_the_container_sees_the_container_alone(stage: Stage) -> None:
    stage.story("neighbour", "2GiB", "alloc=512MiB", "hold=600").wait_for("alloc")
    stage.story("watched", "1GiB", "alloc=128MiB", "hold=600").wait_for("alloc")
    command = ["docker", "exec", "watched", "/usr/bin/python3", "-c", MONITOR]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = CONTEXT_BYTES + 128 * MIB
    pid = 1  # as the container itself counts
    assert [int(word) for word in shown.split()] == [GIB, GIB - used, used, 1, pid, used]
