# SPDX-License-Identifier: Apache-2.0
"""The client socket: wrappers connect here, the kernel says who they are.

A connection carries fixed-size messages (wrapper/include/convgpu_abi.h). It says HELLO once and then asks; nothing it
says is believed about who it is.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

from convgpu.core.identity import ProcessKey
from convgpu.daemon.abi import Message, load_abi, load_codec
from convgpu.daemon.loop import stay_awake
from convgpu.daemon.registry import GuardedProcess
from convgpu.sources import procfs

_BACKLOG: Final = 512
"""Connections that may wait to be accepted: hundreds of processes may start at the same moment."""
_SO_PEERPIDFD: Final = 77
"""asm-generic/socket.h, Linux 6.5; Python 3.11 has no name for it."""
_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


class ClientHandler(Protocol):
    """What the service does with what arrives."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background; a failure is reported."""

    def hello(self, connection: ClientConnection, message: Message) -> Coroutine[Any, Any, None]:
        """Identify the process and answer."""

    def acquire(self, connection: ClientConnection, message: Message) -> None:
        """Decide about a request."""

    def released(self, connection: ClientConnection) -> None:
        """A process gave memory back while somebody waits."""

    def query(self, connection: ClientConnection, message: Message) -> None:
        """Answer what a container may see of its device."""

    def query_process(self, connection: ClientConnection, message: Message) -> None:
        """Answer which processes of a container use its device."""

    def disconnected(self, connection: ClientConnection) -> None:
        """A connection ended."""

    def protocol_error(self, connection: ClientConnection, text: str) -> None:
        """A client sent something that is not a message."""


class ClientConnection:
    """One connection of one process.

    Attributes:
        process: Set once HELLO was answered with WELCOME.
        waiting: Ids of its suspended requests, as the arbiter numbers them.
    """

    def __init__(self, server: ClientServer, connected: socket.socket) -> None:
        self._server = server
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._codec = load_codec()
        self._types = server.types
        self._closed = False
        self.process: GuardedProcess | None = None
        self.waiting: set[int] = set()
        connected.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(self._codec.size_bytes + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            message = self._codec.unpack(data)
        except struct.error as error:
            self._server.handler.protocol_error(self, str(error))
            self.close()
            return
        self._dispatch(message)
        stay_awake(self._loop)

    def _dispatch(self, message: Message) -> None:
        handler = self._server.handler
        types = self._types
        if self.process is None:
            if message.type != types.hello:
                handler.protocol_error(self, f"message {message.type} before HELLO was answered")
                self.close()
                return
            # Nothing more is read until the answer is out: what follows HELLO depends on it.
            self._loop.remove_reader(self._socket)
            handler.spawn(self._say_hello(message))
        elif message.type == types.acquire:
            handler.acquire(self, message)
        elif message.type == types.released:
            handler.released(self)
        elif message.type == types.query:
            handler.query(self, message)
        elif message.type == types.process:
            handler.query_process(self, message)
        else:
            handler.protocol_error(self, f"message {message.type} is not one that a client sends")
            self.close()

    async def _say_hello(self, message: Message) -> None:
        await self._server.handler.hello(self, message)
        self._listen()

    def peer(self) -> tuple[int, ProcessKey]:
        """Return a descriptor and the key of the process at the other end, by the kernel's word.

        Raises:
            ProcessGoneError: It has ended meanwhile.
        """
        try:
            raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, struct.calcsize("i"))
        except OSError:
            # Before Linux 6.5. The pid could have been used again since connect(); the connection being open makes
            # that unlikely, and the start time in the key makes it harmless for every later message.
            pid, _, _ = _CREDENTIALS.unpack(
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            return procfs.open_process(pid)
        (descriptor,) = struct.unpack("i", raw)
        os.set_inheritable(descriptor, False)
        text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        found = re.search(r"^Pid:\s*(-?\d+)$", text, re.MULTILINE)
        pid = int(found.group(1)) if found else -1
        try:
            # The descriptor of a process that has ended shows pid -1, which /proc does not know either.
            return descriptor, ProcessKey(pid, procfs.start_ticks(pid))
        except procfs.ProcessGoneError:
            os.close(descriptor)
            raise

    def send(self, message: Message, descriptor: int | None = None) -> bool:
        """Send a message, with a file descriptor where one is given.

        Returns:
            Whether it went out. A client that does not read its answers is cut off: its requests end with it.
        """
        if self._closed:
            return False
        try:
            if descriptor is None:
                self._socket.send(self._codec.pack(message))
            else:
                socket.send_fds(self._socket, [self._codec.pack(message)], [descriptor])
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """End the connection, once."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._server.connections.discard(self)
        self._server.handler.disconnected(self)


class MessageTypes:
    """The numbers of the messages that clients send: read once, not for every message."""

    def __init__(self) -> None:
        abi = load_abi()
        self.hello = abi.constant("CVG_HELLO")
        self.acquire = abi.constant("CVG_ACQUIRE")
        self.released = abi.constant("CVG_RELEASED")
        self.query = abi.constant("CVG_QUERY")
        self.process = abi.constant("CVG_PROCESS")


class ClientServer:
    """Listens on the client socket.

    Attributes:
        connections: Those that are open.
        types: What clients may send.
    """

    def __init__(self, path: Path, handler: ClientHandler) -> None:
        self.handler = handler
        self.types = MessageTypes()
        self.connections: set[ClientConnection] = set()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        path.chmod(0o666)  # users differ inside containers; identity comes from the kernel, not from permissions

    def start(self) -> None:
        """Begin to accept; to be called inside the running loop, when everything behind it is ready."""
        self._socket.listen(_BACKLOG)
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                asyncio.get_running_loop().call_exception_handler({"message": "accept failed", "exception": error})
                return
            self.connections.add(ClientConnection(self, connected))

    def close(self) -> None:
        """Stop listening and end every connection."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for connection in tuple(self.connections):
            connection.close()
