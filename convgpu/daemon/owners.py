# SPDX-License-Identifier: Apache-2.0
"""Whose a process is, remembered from its first sight: it may be gone when its figures are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from convgpu.core.identity import ContainerId
from convgpu.sources import cgroup, procfs
from convgpu.sources.procfs import PROC

_CGROUPS_KEPT: Final = 4096


class Owners:
    """Containers by process and by cgroup.

    On a v2 or hybrid host the kernel names the cgroup of everything it counts, so one process of a container that was
    ever looked at tells whose all of that cgroup is, and for long after it ended. On a pure v1 host every process has
    the id of the root, which tells nothing: there each process is looked up itself, when it begins to use the driver.

    Args:
        proc: Where procfs is mounted.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._by_process: dict[tuple[int, int], ContainerId | None] = {}
        self._by_pid: dict[int, ContainerId | None] = {}
        self._by_cgroup: dict[int, ContainerId] = {}

    def of(self, pid: int, cgroup_id: int | None = None) -> ContainerId | None:
        """Return the container of a process that is alive, or of which it was asked before; None: the host's.

        Args:
            pid: In the host's pid namespace.
            cgroup_id: Where the kernel saw it; what it tells is remembered.
        """
        try:
            key = (pid, procfs.start_ticks(pid, self._proc))
            if key not in self._by_process:
                self._by_process[key] = cgroup.container_of(pid, self._proc)
                self._by_pid[pid] = self._by_process[key]
            owner = self._by_process[key]
            if cgroup_id is not None and cgroup_id not in self._by_cgroup:
                self._learn(pid, cgroup_id)
            return owner
        except procfs.ProcessGoneError:
            by_cgroup = self._by_cgroup.get(cgroup_id) if cgroup_id is not None else None
            return by_cgroup or self._by_pid.get(pid)

    def _learn(self, pid: int, cgroup_id: int) -> None:
        container = cgroup.container_in_path(cgroup.cgroup_paths(pid, self._proc).get("", ""))
        if container is None or cgroup.cgroup_id(pid, self._proc) not in {cgroup_id, None}:
            return  # the host's, pure v1, or the process has moved since the kernel saw it
        while len(self._by_cgroup) >= _CGROUPS_KEPT:
            del self._by_cgroup[next(iter(self._by_cgroup))]
        self._by_cgroup[cgroup_id] = container

    def prune(self, alive: Iterable[int]) -> None:
        """Drop remembered processes that nobody names any more; cgroups stay for their last events."""
        keep = frozenset(alive)
        self._by_process = {key: owner for key, owner in self._by_process.items() if key[0] in keep}
        self._by_pid = {pid: owner for pid, owner in self._by_pid.items() if pid in keep}
