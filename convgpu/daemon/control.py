# SPDX-License-Identifier: Apache-2.0
"""The control socket: the command line and users' scripts ask here. `convgpu.connection` is the other end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from convgpu.connection import Answer, ErrorAnswer, Request
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


@dataclass(frozen=True, slots=True)
class Stream:
    """An operation that is answered with many lines, as long as the caller stays.

    A caller that does not read holds up its own stream and nothing else: what is to be done then is up to the stream.
    """

    arguments: type
    open: Callable[[Any, Caller], AsyncGenerator[Any, None]]


class ControlServer:
    """Answers one JSON object a line.

    Args:
        path: The socket; only root may connect.
        operations: By name.
    """

    def __init__(self, path: Path, operations: Mapping[str, Operation | Stream]) -> None:
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
                answering = asyncio.ensure_future(self._reply(line, caller, writer))
                tasks = [reading, answering]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done() and not await reading:
                    return
                await answering
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _reply(self, line: bytes, caller: Caller, writer: asyncio.StreamWriter) -> None:
        """Answer one line with one, or with as many as a stream has."""
        request_id = 0
        try:
            request = msgspec.json.decode(line, type=Request)
            request_id = request.id
            operation = self._operations.get(request.op)
            if operation is None:
                known = ", ".join(sorted(self._operations))
                raise ProtocolError(f"the daemon knows no operation '{request.op}'", next_step=f"it knows: {known}")
            arguments: Any = msgspec.json.decode(request.args, type=operation.arguments)
            if isinstance(operation, Stream):
                async with contextlib.aclosing(operation.open(arguments, caller)) as results:
                    async for result in results:
                        await _write(writer, Answer(id=request_id, more=True, ok=_encoded(result)))
                answer = Answer(id=request_id, ok=_encoded(None))
            else:
                answer = Answer(id=request_id, ok=_encoded(await operation.run(arguments, caller)))
        except msgspec.MsgspecError as error:
            text = f"the request is not of this version's form: {error}"
            answer = Answer(id=request_id, error=ErrorAnswer(kind="ProtocolError", message=text))
        except ConvgpuError as error:
            kind = type(error).__name__
            answer = Answer(
                id=request_id, error=ErrorAnswer(kind=kind, message=error.message, next_step=error.next_step)
            )
        await _write(writer, answer)


def _encoded(result: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(result))


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Write a line, and wait while the caller has too many of them unread."""
    writer.write(msgspec.json.encode(answer) + b"\n")
    await writer.drain()
