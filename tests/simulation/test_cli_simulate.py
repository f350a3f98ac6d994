# SPDX-License-Identifier: Apache-2.0
"""`convgpu simulate` as a person calls it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from convgpu.cli.main import main
from convgpu.core.algorithms import OWN_ALGORITHMS

GOLDEN = Path(__file__).parent / "golden" / "paper.csv"
"""Made by `convgpu simulate --scenario paper --format csv`."""

DEADLOCK = """
[[gpu]]
memory = "10GiB"
[[container]]
name = "a"
limit = "8GiB"
guarantee = 0
phases = "+5GiB 10s +3GiB 10s"
count = 2
[[container]]
name = "greedy"
limit = "1GiB"
phases = "+2GiB 1s"
[[container]]
name = "huge"
limit = "11GiB"
duration = "1s"
"""


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)], prog_name="convgpu")


def output(*arguments: object) -> str:
    done = simulate(*arguments)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture
def deadlock(tmp_path: Path) -> Path:
    path = tmp_path / "workload.toml"
    path.write_text(DEADLOCK)
    return path


def test_the_paper_s_scenario_comes_out_as_it_did() -> None:
    """Look at the difference; if it is meant, run once with CONVGPU_UPDATE_SNAPSHOTS=1 and review the file."""
    shown = output("--scenario", "paper", "--format", "csv")
    if os.environ.get("CONVGPU_UPDATE_SNAPSHOTS") == "1":
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()


def test_the_golden_result_holds_what_any_engine_must_do() -> None:
    results = rows(GOLDEN.read_text())
    assert {row["algorithm"] for row in results} == OWN_ALGORITHMS.keys()
    assert {int(row["containers"]) for row in results} == set(range(4, 39, 2))
    assert all(row["completed"] == row["containers"] for row in results)
    assert all(float(row["finish_s"]) >= 5 * (int(row["containers"]) - 1) for row in results)


def test_a_scenario_of_several_workloads_is_a_table_for_each_figure() -> None:
    text = output("--scenario", "paper", "--algorithm", "fifo,best-fit")
    assert text.startswith("scenario paper, seed 0\nGPU 0 has 5GiB\n")
    assert text.count("N    fifo") == 2
    assert "\n38 " in text


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_the_same_seed_gives_the_same_bytes_in_another_process_too(output_format: str) -> None:
    arguments = ["--containers", "60", "--seed", "7", "--poisson", "--format", output_format]
    shown = [
        subprocess.run(
            [sys.executable, "-m", "convgpu.cli.main", "simulate", *arguments],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1]
    assert shown[0].decode() == output(*arguments)
    assert output(*arguments, "--seed", "8") != output(*arguments)


@pytest.mark.parametrize("arguments", [(), ("--containers", "5000", "--interval", "20s")])
def test_the_table_fits_80_columns(arguments: tuple[str, ...]) -> None:
    text = output("--gpu", "10GiB", "--gpu", "b=16GiB", *arguments)
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split()[0] for line in text.splitlines()[4:]] == list(OWN_ALGORITHMS)


def test_json_has_every_figure() -> None:
    (run,) = json.loads(output("--algorithm", "fifo", "--format", "json", "--wait", "1s", "--containers", "40"))
    assert run["settings"] == {"algorithm": "fifo", "seed": 0, "safe": True, "max_bypass": 64, "admit": "part"}
    assert run["summary"]["failed"] == run["summary"]["denials"]["wait_timeout"] > 0
    assert run["devices"][0]["capacity_bytes"] == 10 << 30
    assert run["containers"] is None
    (whole,) = json.loads(output("--algorithm", "fifo", "--format", "json", "--per-container"))
    assert len(whole["containers"]) == 40


def test_csv_has_a_line_for_each_run_or_each_container() -> None:
    runs = rows(output("--format", "csv"))
    assert [row["algorithm"] for row in runs] == list(OWN_ALGORITHMS)
    containers = rows(output("--format", "csv", "--per-container", "--algorithm", "fifo,fair"))
    assert len(containers) == 80
    waits = [float(row["suspended_s"]) for row in containers if row["algorithm"] == "fifo"]
    assert sum(waits) / 40 == pytest.approx(float(runs[0]["mean_suspended_s"]))


def test_what_should_not_happen_is_said_below_the_table(deadlock: Path) -> None:
    text = output(deadlock, "--algorithm", "fifo", "--unsafe", "--per-container")
    assert "; unsafe" in text
    assert "fifo        never    N/A" in text
    assert "fifo: deadlock: from 10.0s on, 2 containers can never go on (a-1, a-2)" in text
    assert "fifo: 1 container failed (greedy); denied: 1 limit" in text
    assert "fifo: 1 container could not start: the limit is more than a GPU has (huge)" in text
    assert "a-1      stuck     0.0s      N/A     0.0s" in text
    safe = output(deadlock, "--algorithm", "fifo")
    assert "deadlock" not in safe
    assert "unsafe" not in safe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--containers", "0"), "0 is not in the range x>=1"),
        (("--sizes", "1GiB,lots"), "'lots' is not a size"),
        (("--sizes", "1GiB", "--duration", "none"), "comes to an end"),
        (("--duration", "60s..10s"), "shortest duration is longer"),
        (("--gpu", "=10GiB"), "gives no name"),
        (("--gpu", "1GiB", "--gpu", "0=2GiB"), "two GPUs have the same name"),
        (("--algorithm", "fifo,fifa"), "'fifa' is not a scheduling algorithm; known: fifo"),
        (("--scenario", "paper", "--gpu", "1GiB"), "--gpu does not go with --scenario"),
        (("--scenario", "paper", "--containers", "3"), "--containers makes containers and does not go with"),
        (("w.toml", "--seed", "3", "--steps", "3"), "--steps makes containers and does not go with a workload file"),
        (("w.toml", "--scenario", "paper"), "not both"),
        (("missing.toml",), "cannot read the workload missing.toml: No such file"),
        (("--plot", "picture.gif"), "must end in .svg, .png, .pdf"),
    ],
)
def test_wrong_arguments_are_answered_clearly(arguments: tuple[str, ...], message: str) -> None:
    done = simulate(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_progress_bar_is_shown_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from convgpu.cli import progress

    class Terminal:
        def __init__(self) -> None:
            self.text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            """Nothing is kept back."""

        def fileno(self) -> int:
            raise io.UnsupportedOperation

    def shown(patience_s: float) -> str:
        terminal: Any = Terminal()
        monkeypatch.setattr(progress, "_PATIENCE_S", patience_s)
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.Progress("Simulating", 3) as bar:
            for _ in range(3):
                bar.step()
        text: str = terminal.text
        return text

    assert shown(60) == ""
    assert "Simulating" in shown(0)
    assert "100%" in shown(0)


@pytest.mark.parametrize(("name", "gpus"), [("workload.toml", []), ("workload.csv", ["--gpu", "12GiB"])])
def test_the_examples_of_the_documentation_run(name: str, gpus: list[str]) -> None:
    path = Path(__file__).parents[2] / "docs" / "examples" / name
    assert len(rows(output(path, *gpus, "--format", "csv"))) == len(OWN_ALGORITHMS)
