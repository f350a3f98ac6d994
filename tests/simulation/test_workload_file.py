# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.core.identity import GpuUuid
from convgpu.core.quota import Quota
from convgpu.core.units import GIB
from convgpu.errors import UsageError
from convgpu.simulation.phases import parse_phases
from convgpu.simulation.workload import Device
from convgpu.simulation.workload_file import KEYS, load_workload

SECOND = 1_000_000_000

WHOLE = """
title = "everything that can be said"
[[gpu]]
name = "left"
memory = "10GiB"
[[gpu]]
memory = 8589934592
[[container]]
name = "trainer"
arrival = 1.5
limit = "5GiB"
guarantee = "2GiB"
gpus = ["left"]
phases = "+1GiB 10s +3GiB 20s"
priority = 3
wait = "10m"
[[container]]
name = "small"
limit = "1GiB"
duration = "30s"
count = 2
every = "5s"
"""


def write(folder: Path, text: str, name: str = "workload.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_everything_that_toml_can_say(tmp_path: Path) -> None:
    workload = load_workload(write(tmp_path, WHOLE))
    left, second = GpuUuid("left"), GpuUuid("1")
    assert workload.title == "everything that can be said"
    assert workload.devices == (Device(left, "left", 10 * GIB), Device(second, "1", 8 * GIB))
    trainer, *small = workload.containers
    assert (trainer.name, trainer.arrival_ns, trainer.priority, trainer.wait_ns) == (
        "trainer",
        1_500_000_000,
        3,
        600 * SECOND,
    )
    assert trainer.quotas == {left: Quota(5 * GIB, 2 * GIB)}
    assert trainer.processes[0].steps == parse_phases("+1GiB 10s +3GiB 20s", [left])
    assert [(each.name, each.arrival_ns) for each in small] == [("small-1", 0), ("small-2", 5 * SECOND)]
    # As with `docker run`: all devices, the guarantee is the limit; `duration`: all of it for so long.
    assert small[0].quotas == dict.fromkeys((left, second), Quota(GIB, GIB))
    assert small[0].processes[0].steps == parse_phases("+1GiB@left +1GiB@1 30s", [left, second])


def test_csv_says_the_same_in_columns(tmp_path: Path) -> None:
    rows = (
        "name,arrival,limit,guarantee,gpus,phases,priority,wait\ntrainer,1.5,5GiB,2GiB,left,+1GiB 10s +3GiB 20s,3,10m\n"
    )
    devices = [Device(GpuUuid("left"), "left", 10 * GIB)]
    from_csv = load_workload(write(tmp_path, rows, "workload.csv"), devices)
    assert from_csv.containers == load_workload(write(tmp_path, WHOLE)).containers[:1]


def test_an_empty_cell_is_as_if_the_column_were_not_there(tmp_path: Path) -> None:
    rows = "limit,guarantee,duration,phases\n1GiB,,10s,\n2GiB,0,,+1GiB 5s\n"
    first, second = load_workload(write(tmp_path, rows, "w.csv"), [Device(GpuUuid("0"), "0", GIB)]).containers
    assert (first.name, first.quotas[GpuUuid("0")].guarantee_bytes) == ("line-2", GIB)
    assert second.quotas[GpuUuid("0")].guarantee_bytes == 0


def test_devices_given_take_the_place_of_those_in_the_file(tmp_path: Path) -> None:
    text = '[[gpu]]\nmemory = "1GiB"\n[[container]]\nlimit = "1GiB"\nduration = "1s"\n'
    given = [Device(GpuUuid("big"), "big", 80 * GIB)]
    assert load_workload(write(tmp_path, text), given).devices == tuple(given)


GPU = '[[gpu]]\nmemory = "10GiB"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no GPU: give --gpu SIZE or"),
        (GPU, "has no containers"),
        (GPU + "[[container]]\nduration = 1", "container 1: 'limit' is missing"),
        (GPU + '[[container]]\nlimit = "1GiB"', "container 1: say either `duration`"),
        (GPU + '[[container]]\nlimit = "1GiB"\nduration = 1\nphases = "1s"', "say either `duration`"),
        (GPU + '[[container]]\nlimt = "1GiB"', "'limt' has no meaning here; known: name, arrival, limit"),
        (GPU + '[[container]]\nlimit = "1GiB"\nduration = 1\ncount = 0', "count is at least 1"),
        (GPU + '[[container]]\nlimit = "1GiB"\nduration = 1\ncount = "many"', "count is a whole number, not 'many'"),
        (GPU + '[[container]]\nlimit = "1GiB"\nduration = "none"', "duration is a time"),
        (GPU + '[[container]]\nlimit = "1GiB"\nduration = 1\ngpus = ["7"]', "there is no GPU '7'; there are: 0"),
        (GPU + '[[container]]\nlimit = "1GiB"\nduration = 1\ngpus = []', "gpus is a list of one or more"),
        (GPU + '[[container]]\nlimit = "1GiB"\nguarantee = "2GiB"\nduration = 1', "does not go with a limit of 1GiB"),
        (GPU + '[[container]]\nlimit = "1GiB"\nphases = "-1GiB"', "frees 1GiB more"),
        (GPU + '[[container]]\nname="a"\nlimit=1\nduration=1\n' * 2, "another container has the name 'a'"),
        ("[[gpu]]\nsize = 1", "[[gpu]]: 'size' has no meaning"),
        ("gpu = 1", "write [[gpu]]"),
        ("[gpu]\nmemory = 1", "write [[gpu]]"),
        ("seed = 1", "'seed' has no meaning here"),
        ("[[", "not in the form of its name"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_workload(write(tmp_path, text))
    assert message in caught.value.message
    assert "workload.toml" in caught.value.message


@pytest.mark.parametrize("text", ["limit,duration\n1GiB\n", "limit,duration\n1GiB,1,2\n"])
def test_a_csv_line_has_as_many_values_as_columns(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"line 2: not as many values"):
        load_workload(write(tmp_path, text, "w.csv"), [Device(GpuUuid("0"), "0", GIB)])


def test_a_file_of_another_kind_or_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.toml or \.csv"):
        load_workload(tmp_path / "workload.yaml")
    with pytest.raises(UsageError, match="No such file"):
        load_workload(tmp_path / "workload.toml")


def test_the_documentation_knows_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    assert [key for key in KEYS if f"| `{key}` |" not in text] == []
