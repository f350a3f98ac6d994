# SPDX-License-Identifier: Apache-2.0
"""What was held before the witness came: measured once, only ever less."""

from __future__ import annotations

import os

import pytest

from convgpu.core.identity import GpuUuid
from convgpu.core.units import MIB
from convgpu.daemon.baselines import Baselines
from convgpu.sources.nvml import GpuReading

GPU = GpuUuid("GPU-0")
PID = os.getpid()  # one that is certainly older than the witness


def reading(**bytes_by_pid):
    return [
        GpuReading(
            uuid=GPU,
            used_bytes=None,
            utilization_percent=None,
            temperature_c=None,
            process_bytes={int(pid.removeprefix("p")): size for pid, size in bytes_by_pid.items()},
        )
    ]


def nvml(size_bytes):
    return reading(**{f"p{PID}": size_bytes})


@pytest.fixture
def baselines():
    baselines = Baselines()
    baselines.begin()
    return baselines


def test_an_older_process_has_what_nvml_has_beyond_the_witness(baselines):
    assert dict(baselines.look(nvml(600 * MIB), {(PID, GPU): 100 * MIB})) == {(PID, GPU): 500 * MIB}


def test_what_is_taken_later_past_the_witness_does_not_enlarge_it(baselines):
    baselines.look(nvml(500 * MIB), {})
    assert baselines.look(nvml(900 * MIB), {(PID, GPU): 100 * MIB})[PID, GPU] == 500 * MIB


def test_what_is_freed_later_shrinks_it_for_good(baselines):
    baselines.look(nvml(500 * MIB), {})
    assert baselines.look(nvml(300 * MIB), {})[PID, GPU] == 300 * MIB
    assert baselines.look(nvml(500 * MIB), {})[PID, GPU] == 300 * MIB


def test_who_held_nothing_at_the_first_look_has_none(baselines):
    assert dict(baselines.look([], {})) == {}
    assert dict(baselines.look(nvml(500 * MIB), {})) == {}


def test_a_process_that_is_gone_or_has_no_figure_has_none(baselines):
    assert dict(baselines.look(reading(p4194305=1, **{f"p{PID}": None}), {})) == {}
