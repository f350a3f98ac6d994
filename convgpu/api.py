# SPDX-License-Identifier: Apache-2.0
"""The typed client of the daemon's control socket: what the command line, the monitor and users' scripts share.

    >>> from convgpu.api import Client
    >>> with Client() as client:
    ...     for container in client.snapshot().containers:
    ...         print(container.name, container.devices)

The dataclasses here and in `convgpu.core` (`detail`, `events`, `starting`, `status`, `trace`) are the schema: both
sides decode with them. `convgpu.connection` has the form of the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from convgpu.connection import Connection
from convgpu.core.annotation import AnnotateArguments, Annotated
from convgpu.core.detail import ContainerDetail, DetailArguments
from convgpu.core.events import EventBatch, EventsArguments
from convgpu.core.starting import AdmitAnswer, AdmitArguments, PrepareRunAnswer, PrepareRunArguments
from convgpu.core.status import GroupStatus, SettingStatus, Snapshot, WaitingStatus
from convgpu.core.trace import TraceArguments, TraceBatch
from convgpu.paths import RunPaths, configured_run_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimit:
    """A container's limit on one device."""

    uuid: str
    index: int
    limit_bytes: int
    guarantee_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitInfo:
    """A container's limit.

    A limit by label or command is the same on each of its devices; one by default may be a share of each device, and
    differ.

    Attributes:
        limit_bytes: The largest of its devices' limits.
        guarantee_bytes: The largest of its devices' guarantees.
        source: `label`, `command` or `default`.
        devices: Both, for each of its devices.
    """

    container_id: str
    name: str
    limit_bytes: int
    guarantee_bytes: int
    source: str
    devices: tuple[DeviceLimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChange:
    """What a change of a limit did; where it differs from device to device, the largest counts.

    `used_bytes` is the most the container holds on one device at that moment.
    """

    container_id: str
    name: str
    old_limit_bytes: int
    new_limit_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSetArguments:
    """Arguments of `limit_set`. No guarantee given: it follows the limit, unless the container's label fixed it."""

    container: str
    limit_bytes: int
    guarantee_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerArguments:
    """Arguments of the operations that name one container, by name, id or a prefix of the id."""

    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSetArguments:
    """Arguments of `group_set`.

    Attributes:
        limit_bytes: None: no limit, whatever is configured.
        gpu: NVML's index or UUID; None: all devices.
    """

    group: str
    limit_bytes: int | None
    gpu: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupArguments:
    """Arguments of `group_get` and `group_remove`. `gpu`: NVML's index or UUID; None: all devices."""

    group: str
    gpu: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDeviceChange:
    """What a change did to a group's limit on one device; None: there was, or is, no limit."""

    uuid: str
    index: int
    old_limit_bytes: int | None
    new_limit_bytes: int | None
    assigned_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChange:
    """What a change of a group's limit did, on each device."""

    name: str
    devices: tuple[GroupDeviceChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartArguments:
    """Arguments of `check_start`."""

    limit_bytes: int
    guarantee_bytes: int | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueArguments:
    """Arguments of `queue`. `container`: by name, id or a prefix of the id; None: all."""

    container: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigStatus:
    """The settings of the daemon. `file` is the configuration file that was read; None: there is none."""

    file: str | None
    settings: tuple[SettingStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A setting that differs now; values as they are written in the file, None where it is set for no such device."""

    key: str
    old: str | int | bool | None
    new: str | int | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """What reading the configuration again did.

    Attributes:
        file: The file that was read; None: there is none.
        changed: What is in force now.
        needs_restart: What the configuration says otherwise, and only a restart brings into force.
    """

    file: str | None
    changed: tuple[SettingChange, ...]
    needs_restart: tuple[SettingChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoArguments:
    """Arguments of the operations that take none."""


class Client:
    """A connection to the daemon; use it as a context manager.

    Args:
        path: The control socket.

    Raises:
        DaemonUnavailableError: Nobody listens there, or this user may not connect.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._connection = Connection(path if path is not None else RunPaths(configured_run_dir()).control_socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def snapshot(self) -> Snapshot:
        """Return everything that the daemon knows now, measured afresh."""
        return self._connection.call("snapshot", NoArguments(), Snapshot)

    def limit_set(self, container: str, limit_bytes: int, guarantee_bytes: int | None = None) -> LimitChange:
        """Change a container's limit while it runs.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
            QuotaRefusedError: Larger than the device, or it would allow a deadlock.
        """
        arguments = LimitSetArguments(container=container, limit_bytes=limit_bytes, guarantee_bytes=guarantee_bytes)
        return self._connection.call("limit_set", arguments, LimitChange)

    def limit_get(self, container: str) -> LimitInfo:
        """Return one container's limit."""
        return self._connection.call("limit_get", ContainerArguments(container=container), LimitInfo)

    def limit_list(self) -> tuple[LimitInfo, ...]:
        """Return the limits of all known containers."""
        return self._connection.call("limit_list", NoArguments(), tuple[LimitInfo, ...])

    def limit_remove(self, container: str) -> LimitChange:
        """Go back from a limit set by command to the container's label or the default."""
        return self._connection.call("limit_remove", ContainerArguments(container=container), LimitChange)

    def group_set(self, group: str, limit_bytes: int | None, gpu: str | None = None) -> GroupChange:
        """Set the limit of a group while its containers run; None: it has no limit, whatever is configured.

        Args:
            group: Its name; `lab/team` is a group in `lab`.
            limit_bytes: The most that its containers may hold together on a device.
            gpu: NVML's index or UUID; None: all devices.

        Raises:
            QuotaRefusedError: With it, containers could wait for each other for ever.
            UsageError: No such device, or no name of a group.
        """
        arguments = GroupSetArguments(group=group, limit_bytes=limit_bytes, gpu=gpu)
        return self._connection.call("group_set", arguments, GroupChange)

    def group_remove(self, group: str, gpu: str | None = None) -> GroupChange:
        """Go back from a group's limit set by command to what is configured."""
        return self._connection.call("group_remove", GroupArguments(group=group, gpu=gpu), GroupChange)

    def group_get(self, group: str) -> GroupStatus:
        """Return one group.

        Raises:
            UsageError: It has neither a limit nor a container.
        """
        return self._connection.call("group_get", GroupArguments(group=group), GroupStatus)

    def group_list(self) -> tuple[GroupStatus, ...]:
        """Return all groups that have a limit, or containers."""
        return self._connection.call("group_list", NoArguments(), tuple[GroupStatus, ...])

    def queue(self, container: str | None = None) -> tuple[WaitingStatus, ...]:
        """Return who waits, for what, why, and what would let the first of them go on.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
        """
        return self._connection.call("queue", QueueArguments(container=container), tuple[WaitingStatus, ...])

    def admit(self, container: str, since_ns: int = 0) -> AdmitAnswer:
        """Wait until a created container can have its whole guarantee; it is set aside for it then.

        To close the connection is to give up.

        Raises:
            QuotaRefusedError: It can never have it, or the container's wait time is over.
            UsageError: The container runs already, or its labels are wrong.
        """
        arguments = AdmitArguments(container=container, since_ns=since_ns)
        return self._connection.wait_for("admit", arguments, AdmitAnswer)

    def check_start(self, limit_bytes: int, guarantee_bytes: int | None = None, group: str | None = None) -> None:
        """Ask whether a container with this quota could be started at all.

        Raises:
            QuotaRefusedError: Its limit is larger than what the devices have; the message says both numbers.
        """
        self._connection.call(
            "check_start",
            StartArguments(limit_bytes=limit_bytes, guarantee_bytes=guarantee_bytes, group=group),
            NoArguments,
        )

    def prepare_run(self, arguments: PrepareRunArguments) -> PrepareRunAnswer:
        """Have a start checked and get the command that makes it.

        Raises:
            UsageError: The arguments would undo what ConvGPU adds, or the image cannot preload a library.
            QuotaRefusedError: The limit is larger than what the devices have.
            EnvironmentMissingError: Docker does not answer.
        """
        return self._connection.call("prepare_run", arguments, PrepareRunAnswer)

    def annotate(self, text: str, container: str | None = None) -> Annotated:
        """Put a note into the audit log, perhaps about one container.

        Raises:
            UsageError: It is empty or too long.
            UnknownContainerError: No such container, or an ambiguous prefix.
            AuditError: The log cannot be written.
        """
        return self._connection.call("annotate", AnnotateArguments(text=text, container=container), Annotated)

    def config_show(self) -> ConfigStatus:
        """Return the settings that the daemon runs by, and where each comes from."""
        return self._connection.call("config_show", NoArguments(), ConfigStatus)

    def config_reload(self) -> ConfigChange:
        """Let the daemon read its configuration file again, as SIGHUP does.

        Raises:
            ConfigError: The file has mistakes, or asks for what this machine does not have; nothing was changed.
        """
        return self._connection.call("config_reload", NoArguments(), ConfigChange)

    def container_detail(self, container: str, *, decisions: int = 20) -> ContainerDetail:
        """Return what there is to know of one container beside the figures of a snapshot.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
        """
        arguments = DetailArguments(container=container, decisions=decisions)
        return self._connection.call("container_detail", arguments, ContainerDetail)

    def trace(
        self, container: str | None = None, *, min_bytes: int = 0, kind: str | None = None, stacks: bool = False
    ) -> Iterator[TraceBatch]:
        """Return what happens from now on, batch by batch; where nothing does, an empty batch each second.

        A reader that is too slow loses events, and the next batch says how many. The connection is for this alone from
        then on: close it to end. With `stacks`, each event says where it was called from, as far as the program keeps
        frame pointers; that costs its call a microsecond or so.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
            EnvironmentMissingError: No witness runs.
        """
        arguments = TraceArguments(container=container, min_bytes=min_bytes, kind=kind, stacks=stacks)
        return self._connection.stream("trace", arguments, TraceBatch)

    def events(
        self,
        container: str | None = None,
        *,
        last: int = 10,
        follow: bool = True,
        topics: Iterable[str] = (),
        grants: bool = True,
    ) -> Iterator[EventBatch]:
        """Return what happened last, and then what happens from now on, batch by batch, as the log has it.

        The daemon keeps the last thousand or so since it started; what is older is in the log. To one who follows,
        an empty batch comes each second where nothing happens. A reader that is too slow loses events, and the next
        batch says how many. The connection is for this alone from then on: close it to end.

        Args:
            container: By name, id or a prefix of the id, also one that is gone; None: all.
            last: How many of those that happened before are told first.
            follow: Whether to go on with what happens from now on.
            topics: Some of `convgpu.core.events.TOPICS`; none given: all.
            grants: Whether requests that were granted at once are told: there may be thousands a second.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
            UsageError: No such topic.
        """
        arguments = EventsArguments(container=container, last=last, follow=follow, topics=tuple(topics), grants=grants)
        return self._connection.stream("events", arguments, EventBatch)
