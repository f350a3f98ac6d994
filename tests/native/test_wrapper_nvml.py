# SPDX-License-Identifier: Apache-2.0
"""What a monitor inside the container is told by NVML: the container's own memory and processes, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_process import CONTEXT_BYTES, MIB, Build, Program

OK, INVALID, TOO_SMALL, NOT_FOUND = "0", "2", "7", "13"


@pytest.fixture
def monitor(start: Any, daemon: FakeDaemon) -> Program:
    """A process that uses NVML and nothing else, beside one that computes."""
    daemon.limit_bytes = 256 * MIB
    start().ready().alloc(64 * MIB)
    program: Program = start()
    assert program.do("nvml") == ["0"]
    return program


def test_memory_is_that_of_the_container(monitor: Program, daemon: FakeDaemon) -> None:
    used = CONTEXT_BYTES + 64 * MIB
    total, free = 256 * MIB, 256 * MIB - used
    assert monitor.do("call", "nvmlDeviceGetMemoryInfo", 1, "@3") == [OK, str(total), str(free), str(used)]
    answer = monitor.do("call", "nvmlDeviceGetMemoryInfo_v2", 1, "@5")
    assert (answer[0], *answer[2:]) == (OK, str(total), "0", str(free), str(used))


def test_no_more_is_free_than_the_device_has(monitor: Program, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 1 << 40
    used = CONTEXT_BYTES + 64 * MIB
    answer = monitor.do("call", "nvmlDeviceGetMemoryInfo", 1, "@3")
    assert answer == [OK, str(1024 * MIB), str(424 * MIB), str(used)]


@pytest.mark.parametrize(("name", "words"), [("", 2), ("_v3", 3)])
def test_processes_are_those_of_the_container(monitor: Program, daemon: FakeDaemon, name: str, words: int) -> None:
    call = f"nvmlDeviceGetComputeRunningProcesses{name}"
    assert monitor.do("call", call, 1, "@=0", 0) == [TOO_SMALL, "1"]
    answer = monitor.do("call", call, 1, "@=1", f"@{words + 1}")
    pid, used = int(answer[1]) & 0xFFFFFFFF, int(answer[2])
    assert (answer[0], pid, used) == (OK, daemon.page(0).pid, CONTEXT_BYTES + 64 * MIB)
    assert answer[words + 1] == "0"  # nothing was written behind the entry
    if words == 3:
        assert int(answer[3]) == 0xFFFFFFFF_FFFFFFFF  # no instance


def test_graphics_processes_of_others_are_not_shown(monitor: Program) -> None:
    assert monitor.do("call", "nvmlDeviceGetGraphicsRunningProcesses_v3", 1, "@=9", 0) == [OK, "0"]


def test_devices_and_functions_that_are_not_there_stay_so(monitor: Program) -> None:
    assert monitor.do("call", "nvmlDeviceGetMemoryInfo", 0, "@3")[0] == INVALID
    assert monitor.do("call", "nvmlDeviceGetComputeRunningProcesses_v3", 0, "@=0", 0)[0] == INVALID
    assert monitor.do("call", "nvmlDeviceGetComputeRunningProcesses_v2", 1, "@=0", 0) == ["?"]


def test_a_device_that_the_container_was_not_given_is_left_alone(monitor: Program) -> None:
    assert monitor.do("call", "nvmlDeviceGetMemoryInfo", 2, "@3") == [
        OK,
        str(1024 * MIB),
        str(424 * MIB),
        str(600 * MIB),
    ]


def test_a_monitor_joins_at_its_first_question_only(monitor: Program, daemon: FakeDaemon) -> None:
    assert len(daemon.pages) == 1
    monitor.do("call", "nvmlDeviceGetUUID", 1, "@8", 64)
    assert len(daemon.pages) == 1
    monitor.do("call", "nvmlDeviceGetMemoryInfo", 1, "@3")
    assert len(daemon.pages) == 2


def test_an_unguarded_monitor_sees_the_device(start: Any, daemon: FakeDaemon) -> None:
    daemon.hello = "UNMANAGED"
    program = start()
    program.do("nvml")
    assert program.do("call", "nvmlDeviceGetMemoryInfo", 1, "@3")[2:] == [str(424 * MIB), str(600 * MIB)]
    assert program.do("call", "nvmlDeviceGetComputeRunningProcesses_v3", 1, "@=0", 0) == [OK, "2"]


def test_without_the_wrapper_nothing_is_changed(build: Build) -> None:
    program = Program(build, None)
    program.do("nvml")
    assert program.do("call", "nvmlDeviceGetMemoryInfo", 1, "@3")[2:] == [str(424 * MIB), str(600 * MIB)]
    program.end()
