# SPDX-License-Identifier: Apache-2.0
"""Groups in workloads and in recordings: a group that is full keeps its own waiting, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from logs import CONTAINER, GPU, Log

from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.units import GIB
from convgpu.errors import UsageError
from convgpu.simulation.check import check
from convgpu.simulation.events import ContainerSeen, DaemonStarted, GroupLimitsSet
from convgpu.simulation.rebuild import rebuild
from convgpu.simulation.recording import read_recording
from convgpu.simulation.result import Settings
from convgpu.simulation.simulator import simulate
from convgpu.simulation.workload import Device
from convgpu.simulation.workload_file import load_workload

LAB = GroupName("lab")
TOML = """
[[gpu]]
memory = "10GiB"

[[group]]
name = "lab"
limit = "2GiB"

[[container]]
name = "a"
limit = "2GiB"
duration = "10s"
group = "lab"

[[container]]
name = "b"
arrival = "1s"
limit = "2GiB"
duration = "10s"
group = "lab/team"

[[container]]
name = "c"
arrival = "2s"
limit = "2GiB"
duration = "10s"
"""


def limit(limit_bytes: int | None, **more: object) -> dict[str, object]:
    return {"group": "lab", "gpu": GPU["id"], "index": 0, "limit_bytes": limit_bytes, **more}


def test_a_full_group_keeps_its_own_waiting_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(TOML)
    waits = {
        each.name: each.suspended_s for each in simulate(load_workload(path), Settings(algorithm="fifo")).containers
    }
    assert waits == {"a": 0, "b": 9, "c": 0}
    roomy = load_workload(path, groups={LAB: 4 * GIB})
    assert {each.suspended_s for each in simulate(roomy, Settings(algorithm="fifo")).containers} == {0}


def test_csv_names_groups_and_the_command_line_their_limits(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("name,limit,duration,group\na,1GiB,1s,lab\nb,1GiB,1s,\n")
    workload = load_workload(path, [Device(GpuUuid("0"), "0", GIB)], {LAB: GIB})
    assert [each.group for each in workload.containers] == ["lab", None]
    assert workload.group_limits == {LAB: {GpuUuid("0"): GIB}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[[group]]\nlimit = "1GiB"\n', "group 1: 'name' is missing"),
        ('[[group]]\nname = "lab"\n', "group 1: 'limit' is missing"),
        ('[[group]]\nname = "a b"\nlimit = "1GiB"\n', "group 1: 'a b' is not the name of a group"),
        ('[[group]]\nname = "lab"\nlimit = "1GiB"\ngpus = ["9"]\n', "group 1: there is no GPU '9'"),
        ("[group]\n", "group is a list of tables"),
    ],
)
def test_what_is_wrong_with_a_group_is_said_with_its_place(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "w.toml"
    path.write_text('[[gpu]]\nmemory = "1GiB"\n[[container]]\nlimit = "1GiB"\nduration = "1s"\n' + table)
    with pytest.raises(UsageError) as refused:
        load_workload(path)
    assert message in refused.value.message


def recorded() -> Log:
    """The lab has 8 GiB; its container waits for 6 more, until the limit is 10."""
    log = Log()
    log.start(limits=[limit(4 * GIB)])
    log.container(1, group="lab")
    log.process(2)
    return log


def test_the_log_says_which_groups_there_are() -> None:
    log = recorded()
    log.add(3, "group.limits", limits=[limit(8 * GIB, old_limit_bytes=4 * GIB)])
    log.add(4, "group.limits", limits=[limit(None, old_limit_bytes=8 * GIB)])
    start, seen, _, raised, removed = read_recording(log.lines, "log")
    assert isinstance(start, DaemonStarted)
    assert start.group_limits == {LAB: {GpuUuid("GPU-0"): 4 * GIB}}
    assert isinstance(seen, ContainerSeen)
    assert seen.group == LAB
    assert isinstance(raised, GroupLimitsSet)
    assert raised.limits == {LAB: {GpuUuid("GPU-0"): 8 * GIB}}
    assert isinstance(removed, GroupLimitsSet)
    assert removed.limits == {LAB: {}}


def test_a_replay_needs_the_group_to_come_to_what_was_recorded() -> None:
    """The same denial, with and without the record of the group that is its reason."""
    for group, differences in (("lab", 0), (None, 1)):
        log = Log()
        log.start(limits=[limit(8 * GIB)])
        log.container(1, group=group)
        log.process(2)
        log.add(2.5, "group.limits", limits=[limit(4 * GIB, old_limit_bytes=8 * GIB)])
        log.decide(
            3, "denied", "1", 6 * GIB, reason="group_limit", limit_bytes=8 * GIB, guarantee_bytes=0, assigned_bytes=0,
            used_bytes=0, free_bytes=10 * GIB, capacity_bytes=10 * GIB, waiting_bytes=0,
        )  # fmt: skip
        assert len(check(read_recording(log.lines, "log")).differences) == differences


def test_a_workload_of_a_recording_has_its_groups() -> None:
    log = recorded()
    log.add(5, "group.limits", limits=[limit(8 * GIB, old_limit_bytes=4 * GIB)])
    log.process(9, "process.gone", used_bytes=0)
    log.add(10, "container.gone", container=CONTAINER)
    workload = rebuild(read_recording(log.lines, "log"), "log")
    assert workload.group_limits == {LAB: {GpuUuid("GPU-0"): 4 * GIB}}
    assert [(each.container_id, each.group) for each in workload.containers] == [(ContainerId("c" * 64), LAB)]
    (change,) = workload.group_changes
    assert change.limits == {LAB: {GpuUuid("GPU-0"): 8 * GIB}}
    assert change.at_ns == 5_000_000_000
