# SPDX-License-Identifier: Apache-2.0
"""Whose a process was, also when nobody can be asked any more."""

from __future__ import annotations

import shutil

import pytest

from convgpu.daemon.owners import Owners
from convgpu.sources import cgroup

ID = "0123456789abcdef" * 4


@pytest.fixture
def proc(tmp_path, monkeypatch):
    root = tmp_path / "cgroup"
    (root / "docker" / ID).mkdir(parents=True)
    (root / "cgroup.controllers").touch()
    monkeypatch.setattr(cgroup.cgroup_id, "__defaults__", (cgroup.PROC, root))
    monkeypatch.setattr(cgroup.unified_mount, "__defaults__", (root,))
    return tmp_path / "proc"


def begin(proc, pid, text, ticks=100):
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cgroup").write_text(text)
    (proc / str(pid) / "stat").write_text(f"{pid} (name) S " + " ".join(["0"] * 18) + f" {ticks} 0")


def end(proc, pid):
    shutil.rmtree(proc / str(pid))


def inode(proc):
    return (proc.parent / "cgroup" / "docker" / ID).stat().st_ino


def test_a_cgroup_names_processes_that_nobody_ever_saw_alive(proc):
    owners = Owners(proc)
    begin(proc, 42, f"0::/docker/{ID}\n")
    assert owners.of(42, inode(proc)) == ID
    end(proc, 42)
    assert owners.of(43, inode(proc)) == ID
    owners.prune(())
    assert owners.of(42, inode(proc)) == ID


def test_a_cgroup_below_the_container_s_is_the_container_s(proc):
    below = proc.parent / "cgroup" / "docker" / ID / "init.scope"
    below.mkdir()
    owners = Owners(proc)
    begin(proc, 42, f"0::/docker/{ID}/init.scope\n")
    owners.of(42, below.stat().st_ino)
    end(proc, 42)
    assert owners.of(7, below.stat().st_ino) == ID


def test_on_v1_a_process_is_known_by_itself_and_the_root_by_nobody(proc):
    owners = Owners(proc)
    begin(proc, 42, f"4:devices:/docker/{ID}\n")
    assert owners.of(42, 1) == ID
    end(proc, 42)
    assert owners.of(42, 1) == ID
    assert owners.of(43, 1) is None


def test_a_process_that_moved_teaches_nothing_about_where_it_was(proc):
    owners = Owners(proc)
    begin(proc, 42, f"0::/docker/{ID}\n")
    owners.of(42, inode(proc) + 1000)
    end(proc, 42)
    assert owners.of(7, inode(proc) + 1000) is None


def test_a_process_of_the_host_has_no_owner_and_a_number_used_again_is_asked_again(proc):
    owners = Owners(proc)
    begin(proc, 42, "0::/user.slice\n")
    assert owners.of(42, 5) is None
    end(proc, 42)
    begin(proc, 42, f"0::/docker/{ID}\n", ticks=200)
    assert owners.of(42, inode(proc)) == ID
