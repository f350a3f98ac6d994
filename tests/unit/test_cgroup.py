# SPDX-License-Identifier: Apache-2.0
"""From cgroup paths to containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convgpu.sources import cgroup
from convgpu.sources.procfs import ProcessGoneError

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope",
        f"/lab/team-a/{ID}",
        f"/kubepods/burstable/pod0f2c/cri-containerd-{ID}.scope",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/docker/{ID}/docker/{OTHER}",
    ],
)
def test_the_container_is_the_outermost_id_of_the_path(path: str) -> None:
    assert cgroup.container_in_path(path) == ID


@pytest.mark.parametrize("path", ["/", "/user.slice", "/docker", f"/docker/{ID}ff", f"/docker/{ID[:63]}"])
def test_a_path_without_a_whole_id_is_of_no_container(path: str) -> None:
    assert cgroup.container_in_path(path) is None


def proc_with(tmp_path: Path, text: str) -> Path:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(text)
    return tmp_path


def test_pure_v2(tmp_path: Path) -> None:
    assert cgroup.container_of(42, proc_with(tmp_path, f"0::/docker/{ID}\n")) == ID


def test_pure_v1_by_memory_or_devices(tmp_path: Path) -> None:
    text = f"5:cpu,cpuacct:/\n4:devices:/docker/{ID}\n3:name=systemd:/docker/{OTHER}\n"
    assert cgroup.container_of(42, proc_with(tmp_path, text)) == ID


def test_hybrid_with_an_empty_unified_path(tmp_path: Path) -> None:
    assert cgroup.container_of(42, proc_with(tmp_path, f"9:memory:/docker/{ID}\n0::/\n")) == ID


def test_a_process_of_the_host(tmp_path: Path) -> None:
    assert cgroup.container_of(42, proc_with(tmp_path, "9:memory:/user.slice\n0::/user.slice\n")) is None


def test_a_process_that_ended(tmp_path: Path) -> None:
    with pytest.raises(ProcessGoneError):
        cgroup.container_of(42, tmp_path)


def test_the_cgroup_id_is_the_inode_of_the_v2_folder(tmp_path: Path) -> None:
    root = tmp_path / "cgroup" / "unified"
    folder = root / "docker" / ID
    folder.mkdir(parents=True)
    (root / "cgroup.controllers").touch()
    proc = tmp_path / "proc"
    proc.mkdir()
    proc_with(proc, f"9:memory:/x\n0::/docker/{ID}\n")
    assert cgroup.cgroup_id(42, proc, tmp_path / "cgroup") == folder.stat().st_ino


def test_no_cgroup_id_on_pure_v1(tmp_path: Path) -> None:
    assert cgroup.cgroup_id(os.getpid(), root=tmp_path) is None
