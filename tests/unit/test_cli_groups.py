# SPDX-License-Identifier: Apache-2.0
"""`convgpu group`, and where groups show in `run`, `ps` and `queue`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convgpu.cli.main import main
from convgpu.cli.quick import read
from convgpu.core.status import GroupStatus, GroupUsage
from convgpu.core.units import GIB
from convgpu.errors import UsageError
from convgpu.oci.labels import group_of, parse_labels
from convgpu.oci.run import RunSettings
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import GPU_UUID, sample_snapshot

LAB = GroupStatus(
    name="lab",
    containers=("alpha", "beta"),
    devices=(
        GroupUsage(
            uuid=GPU_UUID, index=0, limit_bytes=None, source=None, assigned_bytes=6 * GIB, used_bytes=5 * GIB,
            waiting=1, over=False,
        ),
    ),
)  # fmt: skip

Run = Callable[..., Result]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeControlServer]:
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as running:
        yield running


@pytest.fixture
def convgpu(tmp_path: Path) -> Run:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="convgpu", env={"CONVGPU_RUN_DIR": str(tmp_path)})

    return run


def test_without_groups_there_is_nothing_to_list(server: FakeControlServer, convgpu: Run) -> None:
    assert convgpu("group", "ls").stdout == "There are no groups.\n"
    assert json.loads(convgpu("group", "ls", "--format", "json").stdout) == []


def test_a_limit_is_set_shown_and_removed(server: FakeControlServer, convgpu: Run) -> None:
    server.snapshot = replace(server.snapshot, groups=(LAB,))
    done = convgpu("group", "set", "lab", "8GiB")
    assert (done.exit_code, done.stdout) == (0, "lab: limit none -> 8GiB on GPU 0\n")
    heading, row = convgpu("group", "ls").stdout.splitlines()
    assert heading.split() == ["GROUP", "GPU", "LIMIT", "ASSIGNED", "USED", "WAITING", "CONTAINERS", "SOURCE"]
    assert row.split() == ["lab", "0", "8GiB", "6GiB", "5GiB", "1", "2", "command"]
    assert convgpu("group", "get", "lab").stdout.splitlines()[-1] == "Containers: alpha, beta"
    assert convgpu("group", "rm", "lab").stdout == "lab: limit 8GiB -> none on GPU 0\n"
    again = convgpu("group", "rm", "lab")
    assert (again.exit_code, again.stderr.splitlines()[0]) == (1, "convgpu: group lab has no limit set by command")


def test_a_limit_below_what_is_held_says_what_that_means(server: FakeControlServer, convgpu: Run) -> None:
    server.snapshot = replace(server.snapshot, groups=(LAB,))
    told = convgpu("group", "set", "lab", "4GiB").stdout
    assert "Its containers hold 6GiB there: they keep that, and get nothing more until the group is under." in told
    assert "6GiB (over)" in convgpu("group", "ls").stdout


def test_json_has_every_field_and_csv_a_row_for_each_device(server: FakeControlServer, convgpu: Run) -> None:
    server.snapshot = replace(server.snapshot, groups=(LAB,))
    assert json.loads(convgpu("group", "get", "lab", "--format", "json").stdout) == {
        "name": "lab",
        "containers": ["alpha", "beta"],
        "devices": [
            {"uuid": GPU_UUID, "index": 0, "limit_bytes": None, "source": None, "assigned_bytes": 6 * GIB,
             "used_bytes": 5 * GIB, "waiting": 1, "over": False}
        ],
    }  # fmt: skip
    heading, row = convgpu("group", "ls", "--format", "csv").stdout.splitlines()
    assert dict(zip(heading.split(","), row.split(","), strict=True))["assigned_bytes"] == str(6 * GIB)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "la b", "1GiB"), "'la b' is not the name of a group"),
        (("set", "lab", "lots"), "'lots' is not a size"),
        (("get", "/"), "'/' is not the name of a group"),
    ],
)
def test_wrong_arguments_say_what_would_be_right(
    server: FakeControlServer, convgpu: Run, arguments: tuple[str, ...], message: str
) -> None:
    done = convgpu("group", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert server.requests == []


def test_ps_has_a_column_for_groups_where_a_container_is_in_one(server: FakeControlServer, convgpu: Run) -> None:
    assert "GROUP" not in convgpu("ps").stdout
    first, *others = server.snapshot.containers
    server.snapshot = replace(server.snapshot, containers=(replace(first, group="lab/team"), *others))
    heading, *rows = convgpu("ps").stdout.splitlines()
    assert heading.split()[5:7] == ["GROUP", "GPU"]
    assert [row.split()[4:5] for row in rows] == [["lab/team"], *[["-"] for _ in others]]


def test_run_carries_the_group_as_a_label() -> None:
    settings = RunSettings.of({"convgpu.limit": "1GiB", "convgpu.group": " lab/team"})
    assert settings.group == "lab/team"
    assert RunSettings.of(settings.labels()) == settings
    asked = read(["--limit", "1GiB", "--group", "lab", "--", "image"], {"CONVGPU_RUN_DIR": "/run/x"})
    assert asked == ("/run/x", {"convgpu.limit": "1GiB", "convgpu.group": "lab"}, ["image"])


def test_a_bad_label_is_named() -> None:
    with pytest.raises(UsageError, match=r"label convgpu\.group: 'a b' is not the name of a group"):
        parse_labels({"convgpu.group": "a b"})


def test_a_compose_project_counts_only_where_it_is_to() -> None:
    labels = {"com.docker.compose.project": "shop"}
    assert group_of(labels, by_compose_project=False) is None
    assert group_of(labels, by_compose_project=True) == "shop"
    assert group_of(labels | {"convgpu.group": "lab"}, by_compose_project=True) == "lab"
    with pytest.raises(UsageError, match=r"label com\.docker\.compose\.project"):
        group_of({"com.docker.compose.project": "a b"}, by_compose_project=True)
