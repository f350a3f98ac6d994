# SPDX-License-Identifier: Apache-2.0
"""The typed client of the daemon's control socket: what the command line, the monitor and users' scripts share.

    >>> from convgpu.api import Client
    >>> with Client() as client:
    ...     for container in client.snapshot().containers:
    ...         print(container.name, container.devices)

One request is one line of JSON, `{"id": 1, "op": "limit_set", "args": {...}}`; the answer carries the same id and
either `ok` or `error`. The dataclasses here, in `convgpu.core.starting` and in `convgpu.core.status` are the schema:
both sides decode with them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

import convgpu.errors as errors
from convgpu.core.starting import PrepareRunAnswer, PrepareRunArguments
from convgpu.core.status import SettingStatus, Snapshot, WaitingStatus
from convgpu.core.trace import TraceArguments, TraceBatch
from convgpu.errors import ConvgpuError, DaemonUnavailableError, ProtocolError, UsageError
from convgpu.paths import RunPaths, configured_run_dir

_ANSWER_TIMEOUT_S: Final = 30.0
_T = TypeVar("_T")


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
class StartArguments:
    """Arguments of `check_start`."""

    limit_bytes: int
    guarantee_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueArguments:
    """Arguments of `queue`. `container`: by name, id or a prefix of the id; None: all."""

    container: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitArguments:
    """Arguments of `admit`.

    Attributes:
        container: The full id of a container that was created and has not been started.
        since_ns: When its start was first asked for, CLOCK_MONOTONIC; 0: now. It keeps its place across a restart of
            the daemon.
    """

    container: str
    since_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitAnswer:
    """Answer to `admit`: the container has its whole guarantee and may be started."""

    waited_ms: int


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


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One line from client to daemon."""

    id: int
    op: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it travels: the name of its class in `convgpu.errors`, and what it says."""

    kind: str
    message: str
    next_step: str | None = None

    def to_exception(self) -> ConvgpuError:
        """Rebuild the error on this side; a kind this version does not know becomes a plain ConvgpuError."""
        kind = getattr(errors, self.kind, ConvgpuError)
        if not (isinstance(kind, type) and issubclass(kind, ConvgpuError)):
            kind = ConvgpuError
        return kind(self.message, next_step=self.next_step)


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from daemon to client: `ok` or `error`. `more`: another line with the same id follows."""

    id: int
    more: bool = False
    ok: msgspec.Raw = msgspec.Raw()
    error: ErrorAnswer | None = None


class Client:
    """A connection to the daemon; use it as a context manager.

    Args:
        path: The control socket.

    Raises:
        DaemonUnavailableError: Nobody listens there, or this user may not connect.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path if path is not None else RunPaths(configured_run_dir()).control_socket
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._next_id = 1
        try:
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            if isinstance(error, PermissionError):
                raise DaemonUnavailableError(
                    f"not allowed to use {self._path}", next_step="run the command as root (sudo)"
                ) from error
            raise DaemonUnavailableError(
                f"no ConvGPU daemon answers at {self._path}", next_step="start it with `convgpu daemon`"
            ) from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()

    def snapshot(self) -> Snapshot:
        """Return everything that the daemon knows now, measured afresh."""
        return self._call("snapshot", NoArguments(), Snapshot)

    def limit_set(self, container: str, limit_bytes: int, guarantee_bytes: int | None = None) -> LimitChange:
        """Change a container's limit while it runs.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
            QuotaRefusedError: Larger than the device, or it would allow a deadlock.
        """
        arguments = LimitSetArguments(container=container, limit_bytes=limit_bytes, guarantee_bytes=guarantee_bytes)
        return self._call("limit_set", arguments, LimitChange)

    def limit_get(self, container: str) -> LimitInfo:
        """Return one container's limit."""
        return self._call("limit_get", ContainerArguments(container=container), LimitInfo)

    def limit_list(self) -> tuple[LimitInfo, ...]:
        """Return the limits of all known containers."""
        return self._call("limit_list", NoArguments(), tuple[LimitInfo, ...])

    def limit_remove(self, container: str) -> LimitChange:
        """Go back from a limit set by command to the container's label or the default."""
        return self._call("limit_remove", ContainerArguments(container=container), LimitChange)

    def queue(self, container: str | None = None) -> tuple[WaitingStatus, ...]:
        """Return who waits, for what, why, and what would let the first of them go on.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
        """
        return self._call("queue", QueueArguments(container=container), tuple[WaitingStatus, ...])

    def admit(self, container: str, since_ns: int = 0) -> AdmitAnswer:
        """Wait until a created container can have its whole guarantee; it is set aside for it then.

        To close the connection is to give up.

        Raises:
            QuotaRefusedError: It can never have it, or the container's wait time is over.
            UsageError: The container runs already, or its labels are wrong.
        """
        self._socket.settimeout(None)
        try:
            return self._call("admit", AdmitArguments(container=container, since_ns=since_ns), AdmitAnswer)
        finally:
            self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def check_start(self, limit_bytes: int, guarantee_bytes: int | None = None) -> None:
        """Ask whether a container with this quota could be started at all.

        Raises:
            QuotaRefusedError: Its limit is larger than what the devices have; the message says both numbers.
        """
        self._call("check_start", StartArguments(limit_bytes=limit_bytes, guarantee_bytes=guarantee_bytes), NoArguments)

    def prepare_run(self, arguments: PrepareRunArguments) -> PrepareRunAnswer:
        """Have a start checked and get the command that makes it.

        Raises:
            UsageError: The arguments would undo what ConvGPU adds, or the image cannot preload a library.
            QuotaRefusedError: The limit is larger than what the devices have.
            EnvironmentMissingError: Docker does not answer.
        """
        return self._call("prepare_run", arguments, PrepareRunAnswer)

    def config_show(self) -> ConfigStatus:
        """Return the settings that the daemon runs by, and where each comes from."""
        return self._call("config_show", NoArguments(), ConfigStatus)

    def config_reload(self) -> ConfigChange:
        """Let the daemon read its configuration file again, as SIGHUP does.

        Raises:
            ConfigError: The file has mistakes, or asks for what this machine does not have; nothing was changed.
        """
        return self._call("config_reload", NoArguments(), ConfigChange)

    def trace(
        self, container: str | None = None, *, min_bytes: int = 0, kind: str | None = None
    ) -> Iterator[TraceBatch]:
        """Return what happens from now on, batch by batch; where nothing does, an empty batch each second.

        A reader that is too slow loses events, and the next batch says how many. The connection is for this alone from
        then on: close it to end.

        Raises:
            UnknownContainerError: No such container, or an ambiguous prefix.
            EnvironmentMissingError: No witness runs.
        """
        arguments = TraceArguments(container=container, min_bytes=min_bytes, kind=kind)
        return self._stream("trace", arguments, TraceBatch)

    def _call(self, op: str, arguments: Any, answer_type: type[_T]) -> _T:
        return self._decoded(op, self._answer_to(op, self._ask(op, arguments)), answer_type)

    def _stream(self, op: str, arguments: Any, answer_type: type[_T]) -> Iterator[_T]:
        request_id = self._ask(op, arguments)
        while (answer := self._answer_to(op, request_id)).more:
            yield self._decoded(op, answer, answer_type)

    def _ask(self, op: str, arguments: Any) -> int:
        request_id = self._next_id
        self._next_id += 1
        try:
            line = msgspec.json.encode({"id": request_id, "op": op, "args": asdict(arguments)}) + b"\n"
        except UnicodeEncodeError as error:
            raise UsageError("an argument is not a text in UTF-8") from error
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise self._silent(error) from error
        return request_id

    def _silent(self, error: OSError) -> DaemonUnavailableError:
        return DaemonUnavailableError(
            f"the daemon at {self._path} did not answer: {error}", next_step="look at `convgpu doctor`"
        )

    def _answer_to(self, op: str, request_id: int) -> Answer:
        try:
            received = self._lines.readline()
        except OSError as error:
            raise self._silent(error) from error
        if not received.endswith(b"\n"):
            raise DaemonUnavailableError(
                f"the daemon at {self._path} closed the connection", next_step="start it with `convgpu daemon`"
            )
        try:
            answer = msgspec.json.decode(received, type=Answer)
            if answer.error is not None:
                raise answer.error.to_exception()
            if answer.id != request_id or not bytes(answer.ok):
                raise ProtocolError(f"the daemon answered request {request_id} with something else")
        except msgspec.MsgspecError as error:
            raise _other_form(op, error) from error
        return answer

    @staticmethod
    def _decoded(op: str, answer: Answer, answer_type: type[_T]) -> _T:
        try:
            return msgspec.json.decode(answer.ok, type=answer_type)
        except msgspec.MsgspecError as error:
            raise _other_form(op, error) from error


def _other_form(op: str, error: msgspec.MsgspecError) -> ProtocolError:
    return ProtocolError(
        f"the daemon's answer to {op} is not of this version's form: {error}",
        next_step="use the same version of ConvGPU for daemon and command",
    )
