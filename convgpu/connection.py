# SPDX-License-Identifier: Apache-2.0
"""One connection to the daemon's control socket: a line of JSON there, a line or many back. `convgpu.api` has names.

One request is `{"id": 1, "op": "limit_set", "args": {...}}`; the answer carries the same id and either `ok` or `error`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

import convgpu.errors as errors
from convgpu.errors import ConvgpuError, DaemonUnavailableError, ProtocolError, UsageError

_ANSWER_TIMEOUT_S: Final = 30.0
_T = TypeVar("_T")


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


class Connection:
    """A connection.

    Args:
        path: The control socket.

    Raises:
        DaemonUnavailableError: Nobody listens there, or this user may not connect.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()

    def call(self, op: str, arguments: Any, answer_type: type[_T]) -> _T:
        """Ask for an operation and return its answer.

        Raises:
            DaemonUnavailableError: No answer came in half a minute, or the daemon ended.
            ProtocolError: The answer is of another version's form.
            ConvgpuError: What the daemon refused it with.
        """
        return self._decoded(op, self._answer_to(op, self._ask(op, arguments)), answer_type)

    def wait_for(self, op: str, arguments: Any, answer_type: type[_T]) -> _T:
        """Do as `call` does, for an operation that may take for ever."""
        self._socket.settimeout(None)
        try:
            return self.call(op, arguments, answer_type)
        finally:
            self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def stream(self, op: str, arguments: Any, answer_type: type[_T]) -> Iterator[_T]:
        """Ask for an operation with many answers; the connection is for this alone from then on."""
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
