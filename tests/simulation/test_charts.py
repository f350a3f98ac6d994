# SPDX-License-Identifier: Apache-2.0
"""Pictures: that they hold what they should, not how they look."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from small import FIFO, container, workload

from convgpu.cli.main import main
from convgpu.errors import EnvironmentMissingError
from convgpu.simulation import charts
from convgpu.simulation.result import Result, Settings
from convgpu.simulation.simulator import simulate
from convgpu.simulation.workload import Workload

pytest.importorskip("matplotlib")


def runs(*algorithms: str, containers: int = 3) -> list[tuple[Workload, Result]]:
    simulated = workload(*[container(f"c{n}", "+8GiB 10s", arrival_s=n) for n in range(containers)], devices=2)
    return [(simulated, simulate(simulated, Settings(algorithm=name), keep_timeline=True)) for name in algorithms]


@pytest.mark.parametrize(("suffix", "begin"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_form_and_the_same_runs_give_the_same_file(
    tmp_path: Path, suffix: str, begin: bytes
) -> None:
    for name in ("one", "two"):
        charts.draw(runs("fifo", "fair"), tmp_path / f"{name}{suffix}")
    picture = (tmp_path / f"one{suffix}").read_bytes()
    assert picture.startswith(begin)
    assert picture == (tmp_path / f"two{suffix}").read_bytes()


def test_a_long_run_is_drawn_as_means_that_keep_the_area() -> None:
    ((_, result),) = runs("fifo", containers=1500)
    line = result.timelines[0]
    at_s, used = charts._curve(line, line.used_bytes)
    assert len(line.at_ns) > len(at_s) == len(used)
    width_s = at_s[1] - at_s[0]
    area = sum(used) * width_s
    assert area == pytest.approx(1500 * 10 * 8 * 2**30, rel=0.01)


def test_several_workloads_are_drawn_by_their_number_of_containers(tmp_path: Path) -> None:
    series = []
    for containers in (2, 4):
        simulated = workload(*[container(f"c{n}", "+8GiB 10s") for n in range(containers)])
        series.append((simulated, simulate(simulated, FIFO)))
    charts.draw(series, tmp_path / "series.svg")
    assert (tmp_path / "series.svg").stat().st_size > 1000


def test_a_deadlock_has_a_picture_too(tmp_path: Path) -> None:
    crossing = workload(container("a", "+5GiB 10s +3GiB 10s"), container("b", "+5GiB 10s +3GiB 10s"))
    settings = [Settings(algorithm="fifo", safe=safe) for safe in (True, False)]
    charts.draw([(crossing, simulate(crossing, each, keep_timeline=True)) for each in settings], tmp_path / "d.png")
    assert (tmp_path / "d.png").exists()


def test_without_matplotlib_it_says_what_to_install_before_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentMissingError, match="matplotlib"):
        charts.require(tmp_path / "a.svg")
    done = CliRunner().invoke(main, ["simulate", "--plot", str(tmp_path / "a.svg")], prog_name="convgpu")
    assert done.exit_code == 6
    assert "pip install 'convgpu[plot]'" in done.stderr
    assert done.stdout == ""


def test_the_command_draws(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    arguments = ["simulate", "--containers", "4", "--algorithm", "fifo", "--plot", str(path)]
    done = CliRunner().invoke(main, arguments, prog_name="convgpu")
    assert done.exit_code == 0
    assert path.read_text().startswith("<?xml")
