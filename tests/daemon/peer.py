# SPDX-License-Identifier: Apache-2.0
"""A process that speaks the wrapper's side of the client socket, one command a line on stdin, one answer a line.

It first moves itself into the cgroup named on the command line: the daemon knows it by that and by nothing it says.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from convgpu.daemon.abi import Message, load_abi
from convgpu.daemon.page import CreditPage


class Peer:
    """Connections by name, and the page."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connections: dict[str, socket.socket] = {}
        self._page: CreditPage | None = None
        self._lib = load_abi().lib

    def hello(self, name: str = "first", instance: int = 0, version: int | None = None) -> dict[str, Any]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self._path)
        self._connections[name] = connection
        data = Message(type=self._lib.CVG_HELLO, request=instance).pack()
        if version is not None:
            data = data[:4] + version.to_bytes(4, "little") + data[8:]
        connection.send(data)
        data, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        if descriptors:
            self._page = CreditPage(Path("page"), descriptors[0])
        return self._show(data)

    def acquire(self, size_bytes: int, name: str = "first", flags: int = 0, since_ns: int = 0) -> None:
        message = Message(type=self._lib.CVG_ACQUIRE, request=7, size_bytes=size_bytes, flags=flags, since_ns=since_ns)
        self._connections[name].send(message.pack())

    def send_raw(self, text: str, name: str = "first") -> None:
        self._connections[name].send(text.encode())

    def query(self, name: str = "first", device: int = 0) -> dict[str, Any]:
        self._connections[name].send(Message(type=self._lib.CVG_QUERY, device=device).pack())
        return self.answer(name)

    def answer(self, name: str = "first", timeout_s: float = 10.0) -> dict[str, Any]:
        self._connections[name].settimeout(timeout_s)
        try:
            return self._show(self._connections[name].recv(64))
        except TimeoutError:
            return {"type": None}

    def settle(self, size_bytes: int) -> None:
        """Do to the page what the wrapper does when a grant of this size became an object of this size."""
        self._account().used_bytes += size_bytes

    def free(self, size_bytes: int) -> None:
        """As the wrapper frees: the bytes become credit."""
        self._account().credit_bytes += size_bytes
        self._account().used_bytes -= size_bytes

    def measure_context(self, size_bytes: int) -> None:
        """As the wrapper does when its program has made a context."""
        self._account().context_bytes = size_bytes

    def estimate(self) -> None:
        """As the wrapper does when it meets an allocation that it cannot read."""
        assert self._page is not None
        self._page._raw.estimated = 1

    def begin(self, size_bytes: int) -> None:
        """As the wrapper does while it asks the driver: granted, and not in use yet."""
        self._account().reserved_bytes += size_bytes

    def write(self, field: str, value: int) -> None:
        """Write a field of the device's account, whoever should write it."""
        setattr(self._account(), field, value)

    def write_header(self, field: str, value: int) -> None:
        """Write a field of the page's head."""
        assert self._page is not None
        setattr(self._page._raw, field, value)

    def open_driver(self, path: str) -> None:
        """Have a file open that is called as the driver's."""
        self._driver = Path(path).open("w")  # noqa: SIM115 -- it is to stay open

    def forge_credit(self, size_bytes: int) -> None:
        """Write into the page what nobody granted."""
        self._account().credit_bytes = size_bytes

    def released(self, name: str = "first") -> None:
        self._connections[name].send(Message(type=self._lib.CVG_RELEASED).pack())

    def instance(self) -> int:
        assert self._page is not None
        return self._page.instance

    def page(self) -> dict[str, Any]:
        account = self._account()
        raw = self._page._raw if self._page else None
        return {
            "granted": account.granted_bytes,
            "credit": account.credit_bytes,
            "used": account.used_bytes,
            "limit": account.limit_bytes,
            "hint": account.context_hint_bytes,
            "wanted": raw.wanted if raw is not None else None,
        }

    def policy(self) -> str:
        """What the page says to do while no daemon answers."""
        assert self._page is not None
        return "open" if self._page._raw.fail_open else "closed"

    def limits(self) -> list[int]:
        """The limit of each device, as the page shows it."""
        assert self._page is not None
        return [self._page._raw.device[slot].limit_bytes for slot in range(len(self._page.gpus))]

    def close(self, name: str = "first") -> None:
        self._connections.pop(name).close()

    def replace_program(self) -> None:
        """exec: the same pid and start time, another program that holds nothing."""
        os.set_inheritable(0, True)
        os.execv(sys.executable, [sys.executable, *sys.argv])

    def _account(self) -> Any:
        assert self._page is not None
        return self._page._raw.device[0]

    def _show(self, data: bytes) -> dict[str, Any]:
        if not data:
            return {"type": "CLOSED"}
        message = Message.unpack(data)
        names = ("WELCOME", "UNMANAGED", "GRANTED", "DENIED", "INFO", "REFUSED")
        kind = next(name for name in names if getattr(self._lib, f"CVG_{name}") == message.type)
        return {
            "type": kind,
            "request": message.request,
            "size": message.size_bytes,
            "reason": message.reason,
            "total": message.total_bytes,
            "free": message.free_bytes,
        }


def main() -> None:
    path, cgroup = sys.argv[1:3]
    if cgroup != "-":
        (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    peer = Peer(path)
    print(json.dumps("ready"), flush=True)
    # Unbuffered: a program that replaces this one must find the rest of the commands.
    while line := _read_line():
        words = json.loads(line)
        print(json.dumps(getattr(peer, words[0])(*words[1:])), flush=True)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


if __name__ == "__main__":
    main()
