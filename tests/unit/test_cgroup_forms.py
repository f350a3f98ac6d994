# SPDX-License-Identifier: Apache-2.0
"""Whose a process is, by /proc/PID/cgroup in the forms that engines, drivers and hierarchies give it.

Those in tests/unit/recorded were taken from real engines on a hybrid hierarchy with the cgroupfs driver, beside the
engine's own answer about the container. The others were written after what users of the named software show in public
reports, with other ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convgpu.sources import cgroup
from convgpu.sources.docker import facts_of

ID = "0123456789abcdef" * 4
POD = "fedcba9876543210" * 4
POD_UID = "0125ec2f_b64a_4868_8f5b_94b56cbab864"
RECORDED = Path(__file__).parent / "recorded"
ENGINES = ("docker-20.10", "docker-28.5", "podman-4.3")
USER = "/user.slice/user-1000.slice/user@1000.service"
V1_CONTROLLERS = (
    "rdma", "freezer", "pids", "blkio", "cpuset", "perf_event", "hugetlb", "memory", "devices", "net_cls,net_prio",
    "cpu,cpuacct", "name=systemd",
)  # fmt: skip


def v1(path: str, **others: str) -> str:
    """Return the file on a v1 host: a line for each controller; `others` are in a cgroup of their own."""
    controllers = enumerate(V1_CONTROLLERS)
    lines = [f"{len(V1_CONTROLLERS) - place}:{name}:{others.get(name, path)}" for place, name in controllers]
    return "\n".join(lines) + "\n"


BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_UID}.slice"
FORMS = {
    "docker, cgroupfs, v1": v1(f"/docker/{ID}", rdma="/"),
    "docker, cgroupfs, hybrid": v1(f"/docker/{ID}") + f"0::/docker/{ID}\n",
    "docker, cgroupfs, hybrid with no v2 folder of its own": v1(f"/docker/{ID}") + "0::/system.slice/docker.service\n",
    "docker, cgroupfs, v2": f"0::/docker/{ID}\n",
    "docker, systemd, v1": v1(f"/system.slice/docker-{ID}.scope", rdma="/"),
    "docker, systemd, hybrid": v1(f"/system.slice/docker-{ID}.scope") + f"0::/system.slice/docker-{ID}.scope\n",
    "docker, systemd, v2": f"0::/system.slice/docker-{ID}.scope\n",
    "docker, systemd, v2, a process below": f"0::/system.slice/docker-{ID}.scope/init.scope\n",
    "docker, systemd, v2, --cgroup-parent": f"0::/lab.slice/lab-team.slice/docker-{ID}.scope\n",
    "docker, cgroupfs, v1, --cgroup-parent": v1(f"/lab/team-a/{ID}"),
    "docker rootless, systemd, v2": f"0::{USER}/user.slice/docker-{ID}.scope\n",
    "docker rootless, cgroupfs, v1 without rights": v1(f"{USER}/docker.service", devices=f"/user.slice/{ID}"),
    "docker in docker, v1": v1(f"/docker/{ID}/docker/{POD}"),
    "docker in docker, v2, systemd outside": f"0::/system.slice/docker-{ID}.scope/docker/{POD}\n",
    "podman, systemd, v2": f"0::/machine.slice/libpod-{ID}.scope/container\n",
    "podman, systemd, v1": v1(f"/machine.slice/libpod-{ID}.scope", rdma="/"),
    "podman, cgroupfs, v2": f"0::/libpod_parent/libpod-{ID}\n",
    "podman rootless, v2": f"0::{USER}/user.slice/libpod-{ID}.scope/container\n",
    "podman, systemd, v2, in a pod": f"0::/machine.slice/machine-libpod_pod_{POD}.slice/libpod-{ID}.scope/container\n",
    "podman rootless, v2, in a pod": f"0::{USER}/user.slice/user-libpod_pod_{POD}.slice/libpod-{ID}.scope/container\n",
    "podman, cgroupfs, v1, in a pod": v1(f"/libpod_parent/{POD}/libpod-{ID}", rdma="/"),
    "kubernetes, containerd, systemd, v2": f"0::{BURSTABLE}/cri-containerd-{ID}.scope\n",
    "kubernetes, containerd, systemd, v1": v1(f"{BURSTABLE}/cri-containerd-{ID}.scope"),
    "kubernetes, containerd, cgroupfs, v1": v1(f"/kubepods/besteffort/pod{POD_UID.replace('_', '-')}/{ID}"),
    "kubernetes, containerd, drivers that differ, v1": v1(
        f"/system.slice/containerd.service/kubepods-besteffort-pod{POD_UID}.slice:cri-containerd:{ID}"
    ),
    "kubernetes, cri-o, v1": v1(f"{BURSTABLE}/crio-{ID}.scope", rdma="/"),
    "kubernetes, cri-o, v2": f"0::{BURSTABLE}/crio-{ID}.scope/container\n",
    "kubernetes, dockershim, v1": v1(f"{BURSTABLE}/docker-{ID}.scope", rdma="/"),
    "kubernetes, a static pod": f"0::/kubepods.slice/kubepods-pod{'03f3f104' * 4}.slice/cri-containerd-{ID}.scope\n",
    "kind: a node is a container": (
        f"0::/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{POD}.scope\n"
    ),
}
HOSTS = {
    "a login, v2": f"0::{USER}/app.slice/run-{POD[:32]}.scope\n",
    "a service, v1": v1("/system.slice/containerd.service"),
    "docker itself, hybrid": v1("/") + "0::/system.slice/docker.service\n",
    "a pod's own slice": f"0::/machine.slice/machine-libpod_pod_{POD}.slice\n",
    "another process's view": "0::/\n",
}


def proc_with(folder: Path, text: str) -> Path:
    (folder / "42").mkdir()
    (folder / "42" / "cgroup").write_text(text)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_the_container_is_found(form: str, tmp_path: Path) -> None:
    assert cgroup.container_of(42, proc_with(tmp_path, FORMS[form])) == ID


@pytest.mark.parametrize("form", HOSTS)
def test_a_process_of_the_host_is_of_no_container(form: str, tmp_path: Path) -> None:
    assert cgroup.container_of(42, proc_with(tmp_path, HOSTS[form])) is None


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_real_engine_says_and_what_the_kernel_says_of_its_process_are_one(engine: str, tmp_path: Path) -> None:
    facts = facts_of(json.loads((RECORDED / f"{engine}.json").read_text()))
    kernel = (RECORDED / f"{engine}.cgroup").read_text()
    assert cgroup.container_of(42, proc_with(tmp_path, kernel)) == facts.container_id
    assert (facts.name, facts.state) == ("recorded", "running")
    assert facts.pid > 0
    assert facts.created_ns % 1_000_000_000 > 0, "nanoseconds"
    assert facts.labels["convgpu.limit"] == "2GiB"
    assert facts.client_dir == "/srv"


def test_annotations_of_a_newer_docker_are_among_the_labels() -> None:
    newer, older = (facts_of(json.loads((RECORDED / f"{engine}.json").read_text())) for engine in ENGINES[1::-1])
    assert newer.labels["convgpu.wait"] == "5s"
    assert "convgpu.wait" not in older.labels
    assert newer.device_minors == older.device_minors == frozenset({0})
