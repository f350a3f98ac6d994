# SPDX-License-Identifier: Apache-2.0
"""`convgpu daemon`: from options to a configuration. The service itself has its own tests."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main
from convgpu.config.keys import KEYS, DaemonConfig
from convgpu.config.layers import COMMAND_LINE, ENVIRONMENT, FILE
from convgpu.core.amount import Amount
from convgpu.core.listen import Address
from convgpu.core.units import GIB, MIB


@pytest.fixture
def configured(monkeypatch):
    """Run the command with a service that returns at once; return its exit status and what it was given."""
    given = []

    def run(layers):
        given.append(layers.read())
        return 9

    service = types.ModuleType("convgpu.daemon.service")
    service.run = run
    monkeypatch.setitem(sys.modules, "convgpu.daemon.service", service)
    for name in ("RUN_DIR", "STATE_DIR", "LOG_DIR"):
        monkeypatch.delenv(f"CONVGPU_{name}", raising=False)
    monkeypatch.setenv("CONVGPU_CONFIG", os.devnull)  # the machine's own file is none of this test's business

    def invoke(*arguments):
        given.clear()
        done = CliRunner().invoke(main, ["daemon", *arguments], prog_name="convgpu")
        return done, (given[0] if given else None)

    return invoke


def test_without_options_the_configuration_is_the_default_one(configured):
    done, effective = configured()
    assert effective.config == DaemonConfig()
    assert done.exit_code == 9, "the service's own status"


def test_every_key_is_an_option(configured):
    _, effective = configured(
        "--run-dir", "/r", "--state-dir", "/s", "--log-dir", "/l", "--capacity", "0=4GiB",
        "--capacity", "GPU-5ca1ab1e=3G", "--capacity", "90%", "--reserve", "256MiB", "--algorithm", "fifo",
        "--default-limit", "2GiB", "--default-guarantee", "1GiB", "--default-guarantee", "1=0", "--seed", "7",
        "--max-bypass", "0", "--unsafe", "--fail", "open", "--probes", "physical", "--interval", "0.5", "--simulated",
        "--runtime-next", "/usr/bin/crun", "--runtime-unlabelled", "pass", "--runtime-daemon-absent", "refuse",
        "--watch", "all", "--on-unwrapped", "stop", "--on-bypass", "pause", "--on-tampered", "notify",
        "--on-external", "log", "--notify-command", "/bin/true it", "--group-without-limit", "refuse",
        "--audit-max-size", "1GiB", "--audit-max-age", "24h", "--audit-seal-interval", "5", "--audit-key", "/k",
        "--on-audit-failure", "stop", "--group-by-compose-project",
        "--metrics-listen", "0.0.0.0:9400", "--metrics-remote",
    )  # fmt: skip
    assert effective.config == DaemonConfig(
        run_dir=Path("/r"),
        state_dir=Path("/s"),
        log_dir=Path("/l"),
        audit_max_size_bytes=GIB,
        audit_max_age_ns=86_400 * 10**9,
        audit_seal_interval_ns=5 * 10**9,
        audit_key=Path("/k"),
        on_audit_failure="stop",
        capacity=Amount(share_ppm=900_000),
        reserve=Amount(256 * MIB),
        algorithm="fifo",
        default_limit=Amount(2 * GIB),
        default_guarantee=Amount(GIB),
        seed=7,
        max_bypass=0,
        safe=False,
        fail_policy="open",
        probes="physical",
        interval_s=0.5,
        runtime_next="/usr/bin/crun",
        runtime_unlabelled="pass",
        runtime_daemon_absent="refuse",
        watch="all",
        on_unwrapped="stop",
        on_bypass="pause",
        on_tampered="notify",
        notify_command=("/bin/true", "it"),
        group_without_limit="refuse",
        group_by_compose_project=True,
        metrics_listen=Address("0.0.0.0", 9400),
        metrics_remote=True,
        simulated=True,
        devices={
            "0": {"capacity": Amount(4 * GIB)},
            "GPU-5ca1ab1e": {"capacity": Amount(3 * GIB)},
            "1": {"default_guarantee": Amount()},
        },
    )
    assert {key.name for key in KEYS} <= effective.sources.keys()
    assert set(effective.sources.values()) == {COMMAND_LINE}


def test_the_command_line_wins_over_the_file(configured, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('reserve = "1GiB"\nmax_bypass = 5\nsimulated = true\n[device.0]\nreserve = "2GiB"\n')
    _, effective = configured("--config", str(file), "--reserve", "3GiB", "--real")
    assert (effective.config.reserve, effective.config.devices) == (Amount(3 * GIB), {}), "for all GPUs means all"
    assert (effective.config.max_bypass, effective.config.simulated) == (5, False)
    assert (effective.source("reserve"), effective.source("max_bypass")) == (COMMAND_LINE, FILE)


def test_a_file_that_is_asked_for_must_be_there(configured, tmp_path):
    done, _ = configured("--config", str(tmp_path / "absent.toml"))
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 2
    assert f"there is no {tmp_path / 'absent.toml'}" in done.stderr


def test_mistakes_in_the_file_are_all_named(configured, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("reserv = 1\nprobes = 'some'\n")
    done, effective = configured("--config", str(file))
    assert (done.exit_code, effective) == (2, None)
    assert f"{file}:1: there is no key 'reserv'; did you mean 'reserve'?" in done.stderr
    assert f"{file}:2: probes: 'some' is none of all, physical, off" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--capacity", "=4GiB"),
        ("--capacity", "0="),
        ("--default-limit", "some"),
        ("--reserve", "-1"),
        ("--probes", "few"),
        ("--interval", "0"),
        ("--algorithm", "lottery"),
        ("--seed", "-1"),
        ("--reserve", "101%"),
        ("--reserve", "first=1GiB"),
    ],
)
def test_what_is_no_value_is_refused(configured, options):
    done, effective = configured(*options)
    assert done.exit_code == 2
    assert options[0] in done.stderr
    assert effective is None


def test_folders_come_from_the_environment_too(configured, monkeypatch):
    monkeypatch.setenv("CONVGPU_RUN_DIR", "/elsewhere")
    _, effective = configured()
    assert effective.config.run_dir == Path("/elsewhere")
    assert effective.source("run_dir") == ENVIRONMENT
    assert configured("--run-dir", "/given")[1].config.run_dir == Path("/given")
