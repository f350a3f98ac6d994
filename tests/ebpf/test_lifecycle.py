# SPDX-License-Identifier: Apache-2.0
"""The end of threads and processes, and who is charged by which cgroup."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from convgpu.sources.cgroup import unified_mount

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def two_cgroups():
    """Two folders in the v2 hierarchy; a process is put in one by writing its pid to `cgroup.procs`."""
    mount = unified_mount()
    if mount is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    folders = [mount / f"convgpu-test-{os.getpid()}-{index}" for index in range(2)]
    for folder in folders:
        folder.mkdir()
    yield folders
    for folder in folders:
        for pid in (folder / "cgroup.procs").read_text().split():
            move(int(pid), mount)
        folder.rmdir()


def move(pid: int, folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(pid))


def test_a_killed_process_is_told_once_and_forgetting_leaves_nothing(watcher, program, until):
    child = program()
    child.tell("runtime 97 0 4096")
    assert watcher.exits(child.pid) == []
    child.kill()
    until(lambda: watcher.exits(child.pid), "the exit event")
    for _ in range(5):
        watcher.story(child.pid)
    (event,) = watcher.exits(child.pid)
    assert (event.source, event.size_bytes, event.comm) == ("process", 0, "shared_program")
    assert watcher.balance(child.pid).runtime_bytes == 97 * 4096  # until it is forgotten
    assert watcher.entries(child.pid)["live"] == 2 * 97
    watcher.witness.forget(child.pid)
    assert watcher.balances(child.pid) == []
    assert watcher.entries(child.pid) == {}


def test_a_process_that_nobody_knows_is_not_told(watcher, program):
    child = program()
    child.kill()
    time.sleep(0.05)
    assert watcher.story(child.pid) == []


def test_a_process_lives_on_without_its_first_thread(watcher, program, until):
    child = program()
    child.tell("runtime 2 0 4096")
    child.tell("leader-exit")
    until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "the leader's end")
    child.tell("runtime 3 0 4096")  # from another thread
    assert watcher.exits(child.pid) == []
    assert watcher.balance(child.pid).runtime_bytes == 5 * 4096
    child.kill()
    until(lambda: watcher.exits(child.pid), "the exit event")
    assert len(watcher.exits(child.pid)) == 1


def test_a_process_whose_first_thread_ended_before_it_allocated_is_told_too(watcher, program, until):
    child = program()
    child.tell("leader-exit")
    child.tell("runtime 3 0 4096")
    child.kill()
    until(lambda: watcher.exits(child.pid), "the exit event")
    assert len(watcher.exits(child.pid)) == 1


def test_a_thread_killed_inside_a_call_leaves_nothing_behind(watcher, program, until):
    child = program()
    child.tell("runtime 1 0 4096")
    child.tell("hang")
    until(lambda: watcher.entries(child.pid).get("calls") == 2, "the call in flight")
    child.kill()
    until(lambda: watcher.exits(child.pid), "the exit event")
    assert not watcher.entries(child.pid).keys() & {"calls", "threads"}
    watcher.witness.forget(child.pid)
    assert watcher.entries(child.pid) == {}


def test_many_short_lived_processes_leave_nothing_behind(watcher, program, until):
    parent = program()
    pids = [parent.tell(f"fork 3 {index % 2} 4096") for index in range(499)]
    until(lambda: all(watcher.exits(pid) for pid in pids), "all exit events")
    assert watcher.entries(*pids)["processes"] == 499
    watcher.witness.forget_many(pids)
    assert watcher.entries(*pids) == {}


def test_the_cgroup_id_is_the_inode_of_its_folder(watcher, program, two_cgroups):
    first, second = two_cgroups
    child = program()
    move(child.pid, first)
    child.tell("runtime 5 0 4096")
    assert watcher.balance(child.pid).cgroup_id == first.stat().st_ino
    assert {event.cgroup_id for event in watcher.story(child.pid)} == {first.stat().st_ino}

    # What was allocated before a move is freed where it was counted.
    move(child.pid, second)
    child.tell("runtime 3 3 8192")
    by_cgroup = {balance.cgroup_id: balance for balance in watcher.balances(child.pid)}
    assert by_cgroup[first.stat().st_ino].runtime_bytes == 5 * 4096
    assert (by_cgroup[second.stat().st_ino].runtime_allocations, by_cgroup[second.stat().st_ino].runtime_bytes) == (
        3,
        0,
    )


@pytest.mark.fuse
def test_physical_memory_of_a_killed_process_leaves_no_entry(watcher, rm, until):
    child = rm()
    for client in (0xC2000001, 0xC2000002):
        child.client(client)
        child.device(client, 0x80, instance=0)
        for handle in range(31):
            child.memory(client, 0x80, 0x1000 + handle, 4096)
    assert watcher.entries(child.pid)["clients"] == 2
    child.free(0xC2000002, 0xC2000002)  # leaves orphans
    assert watcher.balance(child.pid).physical_bytes == 31 * 4096
    child.kill()
    until(lambda: watcher.exits(child.pid), "the exit event")
    assert watcher.entries(child.pid)["objects"] == 2 * 31
    watcher.witness.forget(child.pid)
    assert watcher.balances(child.pid) == []
    assert watcher.entries(child.pid) == {}


@pytest.mark.fuse
def test_orphans_of_a_long_lived_process_are_swept(watcher, rm):
    child = rm()
    for round_number in range(35):
        client = 0xC2100000 + round_number
        child.client(client)
        child.device(client, 0x80, instance=0)
        for handle in range(37):
            child.memory(client, 0x80, 0x1000 + handle, 4096)
        watcher.entries(child.pid)  # remembers the client
        child.free(client, client)
    assert watcher.entries(child.pid)["objects"] == 35 * 37
    assert watcher.balance(child.pid).physical_bytes == 0
    assert "objects" not in watcher.entries(child.pid)


@pytest.mark.fuse
def test_nobody_is_believed_about_a_client_of_another_cgroup(watcher, rm, two_cgroups):
    owner, forger = rm(), rm()
    move(owner.pid, two_cgroups[0])
    move(forger.pid, two_cgroups[1])
    owner.client(0xC2200001)
    owner.device(0xC2200001, 0x80, instance=0)
    owner.memory(0xC2200001, 0x80, 0x1000, 4096)
    forger.free(0xC2200001, 0x1000)
    forger.free(0xC2200001, 0xC2200001)
    forger.memory(0xC2200001, 0x80, 0x1001, 1 << 30)
    assert watcher.balance(owner.pid).physical_bytes == 4096
    assert watcher.balances(forger.pid) == []
    watcher.expect_losses(foreign_client=3)
