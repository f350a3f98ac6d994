# SPDX-License-Identifier: Apache-2.0
"""`convgpu daemon`: from options to a configuration. The service itself has its own tests."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main
from convgpu.core.units import GIB, MIB
from convgpu.daemon.config import DaemonConfig


@pytest.fixture
def configured(monkeypatch):
    """Run the command with a service that returns at once; return its exit status and what it was given."""
    given = []

    def run(config):
        given.append(config)
        return 9

    service = types.ModuleType("convgpu.daemon.service")
    service.run = run
    monkeypatch.setitem(sys.modules, "convgpu.daemon.service", service)
    for name in ("RUN_DIR", "STATE_DIR", "LOG_DIR"):
        monkeypatch.delenv(f"CONVGPU_{name}", raising=False)

    def invoke(*arguments):
        given.clear()
        done = CliRunner().invoke(main, ["daemon", *arguments], prog_name="convgpu")
        return done, (given[0] if given else None)

    return invoke


def test_without_options_the_configuration_is_the_default_one(configured):
    done, config = configured()
    assert config == DaemonConfig()
    assert done.exit_code == 9, "the service's own status"


def test_every_option_arrives(configured):
    _, config = configured(
        "--run-dir", "/r", "--state-dir", "/s", "--log-dir", "/l", "--capacity", "0=4GiB",
        "--capacity", "GPU-5ca1ab1e=3G", "--capacity", "10GiB", "--reserve", "256MiB", "--algorithm", "other",
        "--default-limit", "2GiB", "--fail", "open", "--probes", "physical", "--interval", "0.5", "--simulated",
    )  # fmt: skip
    assert config == DaemonConfig(
        run_dir=Path("/r"),
        state_dir=Path("/s"),
        log_dir=Path("/l"),
        capacities={"0": 4 * GIB, "GPU-5ca1ab1e": 3 * GIB, "*": 10 * GIB},
        reserve_bytes=256 * MIB,
        algorithm="other",
        default_limit_bytes=2 * GIB,
        fail_policy="open",
        probes="physical",
        interval_s=0.5,
        simulated=True,
    )


def test_deny_and_none_are_no_sizes(configured):
    assert configured("--default-limit", "deny")[1] == DaemonConfig(deny_unlabelled=True)
    assert configured("--default-limit", "none")[1] == DaemonConfig()


@pytest.mark.parametrize(
    "options",
    [
        ("--capacity", "=4GiB"),
        ("--capacity", "0="),
        ("--default-limit", "some"),
        ("--reserve", "-1"),
        ("--probes", "few"),
        ("--interval", "0"),
    ],
)
def test_what_is_no_value_is_refused(configured, options):
    done, config = configured(*options)
    assert done.exit_code == 2
    assert options[0] in done.stderr
    assert config is None


def test_folders_come_from_the_environment_too(configured, monkeypatch):
    monkeypatch.setenv("CONVGPU_RUN_DIR", "/elsewhere")
    assert configured()[1].run_dir == Path("/elsewhere")
