# SPDX-License-Identifier: Apache-2.0
"""The control socket: the command line and users' scripts ask here. `convgpu.api` is the other end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from convgpu.api import Answer, ErrorAnswer, Request
from convgpu.errors import ConvgpuError, ProtocolError

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""
_LINE_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by the kernel's word."""

    pid: int
    user_id: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: the type of its arguments and what carries it out."""

    arguments: type
    run: Callable[[Any, Caller], Awaitable[Any]]


class ControlServer:
    """Answers one JSON object a line.

    Args:
        path: The socket; only root may connect.
        operations: By name.
    """

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=_LINE_LIMIT_BYTES)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connected: socket.socket = writer.get_extra_info("socket")
        pid, user_id, _ = _CREDENTIALS.unpack(
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        caller = Caller(pid, user_id)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self._converse(reader, writer, caller)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Caller) -> None:
        """Answer line after line. Who hangs up while an answer is being made gives up the request."""
        tasks: list[asyncio.Future[Any]] = []
        try:
            reading = asyncio.ensure_future(reader.readline())
            while line := await reading:
                reading = asyncio.ensure_future(reader.readline())
                answering = asyncio.ensure_future(self._answer(line, caller))
                tasks = [reading, answering]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done() and not await reading:
                    return
                writer.write(msgspec.json.encode(await answering) + b"\n")
                await writer.drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, line: bytes, caller: Caller) -> Answer:
        request_id = 0
        try:
            request = msgspec.json.decode(line, type=Request)
            request_id = request.id
            operation = self._operations.get(request.op)
            if operation is None:
                known = ", ".join(sorted(self._operations))
                raise ProtocolError(f"the daemon knows no operation '{request.op}'", next_step=f"it knows: {known}")
            arguments: Any = msgspec.json.decode(request.args, type=operation.arguments)
            result = await operation.run(arguments, caller)
            return Answer(id=request_id, ok=msgspec.Raw(msgspec.json.encode(result)))
        except msgspec.MsgspecError as error:
            text = f"the request is not of this version's form: {error}"
            return Answer(id=request_id, error=ErrorAnswer(kind="ProtocolError", message=text))
        except ConvgpuError as error:
            kind = type(error).__name__
            return Answer(id=request_id, error=ErrorAnswer(kind=kind, message=error.message, next_step=error.next_step))
