# SPDX-License-Identifier: Apache-2.0
"""Who is there: the guarded containers and their processes, as the daemon knows them now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from convgpu.config.forms import nearest
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.daemon.outside import Holding
from convgpu.daemon.page import CreditPage
from convgpu.errors import UnknownContainerError
from convgpu.sources import cgroup, procfs
from convgpu.sources.docker import ContainerFacts
from convgpu.sources.nvml import Gpu

if TYPE_CHECKING:
    from convgpu.daemon.clients import ClientConnection


@dataclass(slots=True, kw_only=True, eq=False)
class GuardedProcess:
    """A process that asked for memory.

    Attributes:
        descriptor: A pidfd; readable when the process has ended.
        connections: Its open connections; an ordinary process has one, and one more for each thread that waits.
    """

    key: ProcessKey
    container: ContainerId
    comm: str | None
    user_id: int | None
    descriptor: int
    page: CreditPage
    connections: set[ClientConnection] = field(default_factory=set)

    def slot_of(self, gpu: GpuUuid) -> int | None:
        """Return the page's slot for a device, or None when the container was not given that device."""
        return self.page.gpus.index(gpu) if gpu in self.page.gpus else None


@dataclass(slots=True, kw_only=True, eq=False)
class GuardedContainer:
    """A container with a quota.

    Attributes:
        gpus: The devices it was given, in NVML's order.
        quotas: Limit and guarantee on each of them, now.
        guarantee_fixed: The guarantee was named by a label or a command, so it does not follow the limit.
        source: Where the limit comes from: `label`, `command` or `default`.
        group: With whose containers it shares a quota.
        descriptor: A pidfd of the container's first process; None where it could not be opened.
        peak_bytes: Highest sum of `used` seen, by device.
        starting: It was created, and is to be started when it has its guarantee.
        cgroup_ids: What the kernel calls the container's cgroups in BPF programs.
    """

    facts: ContainerFacts
    gpus: tuple[Gpu, ...]
    quotas: Mapping[GpuUuid, Quota]
    guarantee_fixed: bool
    source: str
    group: GroupName | None = None
    descriptor: int | None = None
    peak_bytes: dict[GpuUuid, int] = field(default_factory=dict)
    starting: bool = False
    cgroup_ids: set[int] = field(default_factory=set)

    @property
    def container_id(self) -> ContainerId:
        """Docker's full id."""
        return self.facts.container_id

    @property
    def limit_bytes(self) -> int:
        """The largest of its devices' limits; only a default limit differs from device to device."""
        return max(quota.limit_bytes for quota in self.quotas.values())

    @property
    def guarantee_bytes(self) -> int:
        """The largest of its devices' guarantees."""
        return max(quota.guarantee_bytes for quota in self.quotas.values())

    def note_cgroup(self, pid: int) -> None:
        """Remember what the kernel calls the cgroup of one of its processes; one that has ended tells nothing."""
        with contextlib.suppress(procfs.ProcessGoneError):
            identifier = cgroup.cgroup_id(pid)
            if identifier is not None:
                self.cgroup_ids.add(identifier)

    @property
    def name(self) -> str:
        """Docker's name, without the slash."""
        return self.facts.name


DEPARTED_KEPT: Final = 1024


class Registry:
    """The containers and processes by key.

    Attributes:
        containers: Those that are guarded.
        processes: Theirs; to be changed by `join` and `leave` only.
    """

    def __init__(self) -> None:
        self.containers: dict[ContainerId, GuardedContainer] = {}
        self.processes: dict[ProcessKey, GuardedProcess] = {}
        self._departed: dict[ContainerId, GuardedContainer] = {}
        self._members: dict[ContainerId, dict[ProcessKey, GuardedProcess]] = {}

    def join(self, process: GuardedProcess) -> None:
        """A process of a container is there."""
        self.processes[process.key] = process
        self._members.setdefault(process.container, {})[process.key] = process

    def leave(self, process: GuardedProcess) -> bool:
        """A process is gone; False: it was before."""
        if self.processes.get(process.key) is not process:
            return False
        del self.processes[process.key]
        members = self._members[process.container]
        del members[process.key]
        if not members:
            del self._members[process.container]
        return True

    def remove(self, guarded: GuardedContainer) -> None:
        """A container stopped. Its name is kept for a while: its last events are still on their way."""
        del self.containers[guarded.container_id]
        self._departed.pop(guarded.container_id, None)
        self._departed[guarded.container_id] = guarded
        while len(self._departed) > DEPARTED_KEPT:
            del self._departed[next(iter(self._departed))]

    def of_id(self, container: ContainerId) -> GuardedContainer | None:
        """Return a container that is guarded, or was until a while ago."""
        return self.containers.get(container) or self._departed.get(container)

    def of_cgroup(self, cgroup_id: int) -> GuardedContainer | None:
        """Return the container that a cgroup belongs to or belonged to; the kernel's id is its folder's inode."""
        for guarded in (*self.containers.values(), *reversed(self._departed.values())):
            if cgroup_id in guarded.cgroup_ids:
                return guarded
        return None

    def processes_of(self, container: ContainerId) -> Iterator[GuardedProcess]:
        """Return a container's processes."""
        return iter(tuple(self._members.get(container, {}).values()))

    def held_bytes(self, container: ContainerId, gpu: GpuUuid) -> int:
        """Return what a container really holds on a device, managed memory included, by its processes' pages."""
        slots = ((process, process.slot_of(gpu)) for process in self.processes_of(container))
        return sum(process.page.read(slot).held_bytes for process, slot in slots if slot is not None)

    def used_bytes(self, container: ContainerId, gpu: GpuUuid) -> int:
        """Return what a container's pages say is in use of a device's own memory: what NVML has to agree with."""
        slots = ((process, process.slot_of(gpu)) for process in self.processes_of(container))
        return sum(process.page.read(slot).used_bytes for process, slot in slots if slot is not None)

    def holdings(self) -> dict[GpuUuid, list[Holding]]:
        """Return what every process holds, by device."""
        return holdings_of(process.page for process in tuple(self.processes.values()))

    def name_of(self, container: ContainerId) -> str:
        """Return a container's name, or the short id of one that is not known."""
        guarded = self.containers.get(container)
        return guarded.name if guarded is not None else container[:12]

    def resolve(self, text: str) -> GuardedContainer:
        """Find a container by name, by id, or by an unambiguous prefix of the id.

        Raises:
            UnknownContainerError: None matches, or several do; the message names them.
        """
        exact = [guarded for guarded in self.containers.values() if text in (guarded.name, guarded.container_id)]
        if len(exact) == 1:
            return exact[0]
        matching = [guarded for guarded in self.containers.values() if text and guarded.container_id.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            choices = ", ".join(f"{guarded.container_id[:12]} ({guarded.name})" for guarded in matching)
            raise UnknownContainerError(
                f"'{text}' matches several containers: {choices}", next_step="give more digits of the id, or the name"
            )
        like = nearest(text, [guarded.name for guarded in self.containers.values()])
        raise UnknownContainerError(
            f"no guarded container is called '{text}'{f'; did you mean {like}?' if like else ''}",
            next_step="see `convgpu ps`; a container is guarded when it was started with `convgpu run` or a "
            "convgpu.limit label",
        )


def holdings_of(pages: Iterable[CreditPage]) -> dict[GpuUuid, list[Holding]]:
    """Return what the processes of some pages hold, by device."""
    held: dict[GpuUuid, list[Holding]] = {}
    for page in pages:
        for slot, gpu in enumerate(page.gpus):
            account = page.read(slot)
            figures = (account.used_bytes, account.managed_bytes, account.granted_bytes)
            held.setdefault(gpu, []).append(Holding(page.key.pid, *figures))
    return held
