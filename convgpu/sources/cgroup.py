# SPDX-License-Identifier: Apache-2.0
"""From a process to the container it runs in, by the kernel's own word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from convgpu.core.identity import ContainerId
from convgpu.sources.procfs import PROC, ProcessGoneError

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_CONTAINER_ID: Final = re.compile(r"(?<![0-9a-f])(?<!libpod_pod_)(?<!libpod_parent/)([0-9a-f]{64})(?![0-9a-f])")
"""Podman's pods have ids of the same form, in a folder above their containers': `libpod_pod_ID.slice` with systemd,
`libpod_parent/ID` without."""
_V1_CONTROLLERS: Final = ("memory", "devices")


def container_in_path(path: str) -> ContainerId | None:
    """Return the container that a cgroup path belongs to.

    Covers `/docker/ID`, `/system.slice/docker-ID.scope`, rootless, `--cgroup-parent`, cri-containerd, kubepods and
    Podman's pods. Of nested containers (Docker in Docker) the outermost is returned: it is the one that this host's
    Docker knows.
    """
    match = _CONTAINER_ID.search(path)
    return ContainerId(match.group(1)) if match else None


def cgroup_paths(pid: int, proc: Path = PROC) -> dict[str, str]:
    """Return a process's cgroup paths by controller list; the key of the unified (v2) hierarchy is the empty string.

    Raises:
        ProcessGoneError: No such process.
    """
    try:
        text = (proc / str(pid) / "cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(pid) from error
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    return paths


def container_of(pid: int, proc: Path = PROC) -> ContainerId | None:
    """Return the container a process runs in, or None for a process of the host.

    Raises:
        ProcessGoneError: No such process.
    """
    paths = cgroup_paths(pid, proc)
    candidates = [paths.get("", "")]
    candidates += [
        path for controllers, path in paths.items() if any(name in controllers.split(",") for name in _V1_CONTROLLERS)
    ]
    for path in candidates:
        container = container_in_path(path)
        if container is not None:
            return container
    return None


def unified_mount(root: Path = CGROUP_ROOT) -> Path | None:
    """Return where the v2 hierarchy is mounted: the root itself, `unified` below it (hybrid), or None (pure v1)."""
    for folder in (root, root / "unified"):
        if (folder / "cgroup.controllers").is_file():
            return folder
    return None


def cgroup_id(pid: int, proc: Path = PROC, root: Path = CGROUP_ROOT) -> int | None:
    """Return what `bpf_get_current_cgroup_id()` gives for a process: the inode of its v2 folder; None on pure v1."""
    mount = unified_mount(root)
    if mount is None:
        return None
    path = cgroup_paths(pid, proc).get("")
    if path is None:
        return None
    try:
        return (mount / path.lstrip("/")).stat().st_ino
    except FileNotFoundError:
        return None
