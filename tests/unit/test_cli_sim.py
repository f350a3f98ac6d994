# SPDX-License-Identifier: Apache-2.0
"""`convgpu sim`: the verbs around the simulated GPU."""

from __future__ import annotations

import json
import shlex

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main
from convgpu.core.units import GIB, MIB


@pytest.fixture
def sim(tmp_path):
    def invoke(verb, *arguments):
        return CliRunner().invoke(main, ["sim", verb, "--sim-dir", str(tmp_path / "sim"), *arguments])

    return invoke


def test_nothing_runs_and_that_is_said(sim, tmp_path):
    done = sim("status")
    assert done.exit_code == 1
    assert done.stdout == f"No simulated GPU runs at {tmp_path}/sim/dev.\n"
    assert sim("down").exit_code == 0


def test_arguments_for_nothing_are_an_error(sim):
    done = sim("docker-args")
    assert done.exit_code == 6
    assert done.stdout == ""
    assert "next: start it with `convgpu sim up`" in done.stderr


@pytest.mark.parametrize("options", [("--memory", "much"), ("--context", "0"), ("--gpus", "0"), ("--gpus", "17")])
def test_what_is_no_value_is_refused(sim, options):
    assert sim("up", *options).exit_code == 2


@pytest.mark.root
@pytest.mark.fuse
def test_a_life(sim, tmp_path):
    try:
        up = sim("up", "--memory", "6GiB", "--context", "256MiB", "--gpus", "2")
        assert up.exit_code == 0, up.output
        assert "Simulated GPU at" in up.stdout
        shown = json.loads(sim("status", "--format", "json").stdout)
        assert shown["running"] is True
        assert [(gpu["total_bytes"], gpu["context_bytes"]) for gpu in shown["gpus"]] == [(6 * GIB, 256 * MIB)] * 2
        (line,) = sim("docker-args").stdout.splitlines()
        assert f"{tmp_path}/sim/dev/nvidiactl:/dev/nvidiactl" in shlex.split(line)
        assert sim("up", "--memory", "7GiB").exit_code == 6, "other parameters are not silently ignored"
    finally:
        assert sim("down").exit_code == 0
    assert sim("status").exit_code == 1
