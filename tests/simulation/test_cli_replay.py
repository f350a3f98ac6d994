# SPDX-License-Identifier: Apache-2.0
"""`convgpu replay` as a person calls it; with logs of real daemons in tests/daemon/test_replay.py."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from logs import CONTAINER, Log

from convgpu.cli.main import main
from convgpu.core.algorithms import OWN_ALGORITHMS
from convgpu.core.units import GIB


def replay(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)], prog_name="convgpu")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    made = Log().start().container(1).process(2).decide(3, "granted", "1", 6 * GIB)
    made.process(9, "process.gone", used_bytes=0).add(9, "container.gone", container=CONTAINER)
    return made.write(tmp_path)


def test_all_algorithms_are_compared_with_what_was_recorded_as_default(log: Path) -> None:
    done = replay(log)
    assert done.exit_code == 0
    first, second, *_ = done.stdout.splitlines()
    assert first == "audit.jsonl, recorded under fifo, 1 container"
    assert second == "GPU 0 has 10GiB; max-bypass 5"
    assert all(f"\n{name} " in done.stdout for name in OWN_ALGORITHMS)
    (run,) = json.loads(replay(log, "--algorithm", "random", "--format", "json").stdout)
    assert run["settings"] == {"algorithm": "random", "seed": 3, "safe": True, "max_bypass": 5, "admit": "part"}
    (other,) = json.loads(
        replay(log, "--algorithm", "fifo", "--format", "json", "--seed", 8, "--max-bypass", 0, "--unsafe").stdout
    )
    assert other["settings"] == {"algorithm": "fifo", "seed": 8, "safe": False, "max_bypass": 0, "admit": "part"}


def test_every_format_is_there(log: Path) -> None:
    rows = list(
        csv.DictReader(replay(log, "--format", "csv", "--per-container", "--algorithm", "fifo").stdout.splitlines())
    )
    assert [(row["name"], row["ended_s"]) for row in rows] == [("alpha", "8.0")]


def test_a_check_says_what_it_compared(log: Path) -> None:
    done = replay(log, "--check")
    assert (done.exit_code, done.stdout) == (0, f"{log}: 1 decision in 1 run of the daemon, all as recorded\n")


def test_many_differences_are_counted_and_the_first_of_them_shown(tmp_path: Path) -> None:
    made = Log().start().container(1).process(2)
    for number in range(30):
        made.decide(3 + number, "suspended", str(number), 1)
    done = replay(made.write(tmp_path), "--check")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 21
    assert "... and 10 more" in done.stderr
    assert done.stdout.endswith("30 decisions in 1 run of the daemon, 30 differences\n")


def test_a_log_of_an_early_version_is_replayed_with_a_warning() -> None:
    early = Path(__file__).parents[2] / "docs" / "results" / "2026-11-22-h100-demo" / "audit.jsonl.gz"
    done = replay(early, "--algorithm", "fifo")
    assert done.exit_code == 0
    assert "did not record what processes give back" in done.stderr


def test_what_is_no_log_is_an_error(tmp_path: Path) -> None:
    done = replay(tmp_path / "none.jsonl")
    assert done.exit_code == 7
    assert "none.jsonl" in done.stderr
    middle = Log().container(1).write(tmp_path)
    assert "record of type daemon.start" in replay(middle).stderr
