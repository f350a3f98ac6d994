# SPDX-License-Identifier: Apache-2.0
"""A small daemon for tests of the wrapper: the real protocol on a real socket, one container, one simple budget.

It runs in a thread of the test and is driven by it: it can hold its answers, die with everything it was told, and start
again with the pages of before. Pages and messages are those of the C header, through the page library.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cffi


class Abi:
    """The two headers, read by cffi, and the page library."""

    def __init__(self, include: Path, library: Path) -> None:
        self.ffi = cffi.FFI()
        for name in ("convgpu_abi.h", "convgpu_page.h"):
            text = re.sub(r"/\*.*?\*/", "", (include / name).read_text(), flags=re.DOTALL)
            defines = re.findall(r"^#define (CVG_\w+) (0x[0-9a-f]+|\d+)\s*$", text, flags=re.MULTILINE)
            body = re.sub(r"^_Static_assert.*?;$", "", text, flags=re.MULTILINE | re.DOTALL)
            body = re.sub(r"^\s*#.*$", "", body, flags=re.MULTILINE)
            self.ffi.cdef("".join(f"#define {key} {value}\n" for key, value in defines) + body)
        self.lib: Any = self.ffi.dlopen(str(library))


@dataclass(frozen=True)
class Device:
    """What names a GPU in a page."""

    uuid: bytes
    pci_domain: int
    pci_bus: int
    pci_device: int


@dataclass(frozen=True)
class Message:
    """What a client said: the fields of `struct cvg_message` that tests look at."""

    type: int
    request: int
    size_bytes: int
    since_ns: int
    device: int
    flags: int
    api: int


@dataclass(frozen=True)
class Account:
    """One slot of a page at one moment."""

    granted: int
    credit: int
    used: int
    reserved: int
    peak: int
    allocations: int
    frees: int
    refusals: int
    context: int
    managed: int

    @property
    def balanced(self) -> bool:
        """Nothing is in flight and nothing was lost."""
        return self.granted == self.credit + self.used + self.reserved + self.managed


@dataclass
class Page:
    """A process's page: survives the daemon."""

    instance: int
    pid: int
    descriptor: int
    raw: Any
    lib: Any
    ffi: Any

    def account(self, device: int = 0) -> Account:
        """Read one slot."""
        out = self.ffi.new("struct cvg_device_account *")
        self.lib.cvg_page_read(self.raw, device, out)
        return Account(
            out.granted_bytes,
            out.credit_bytes,
            out.used_bytes,
            out.reserved_bytes,
            out.peak_bytes,
            out.allocations,
            out.frees,
            out.refusals,
            out.context_bytes,
            out.managed_bytes,
        )


@dataclass
class _Pending:
    connection: socket.socket
    page: Page
    message: Message


@dataclass
class FakeDaemon:
    """One container whose processes may hold `limit_bytes` of each device.

    Attributes:
        limit_bytes: Requests that would go beyond it are denied at once.
        others_bytes: What other containers hold: requests that only fit without it wait.
        gpus: How many of `devices` there are; at first those of wrapper_fake_rm.c.
        hello: How HELLO is answered: the name of a message type without its prefix.
        fail_open: What new pages say about a daemon that is away.
        silent: Requests are read and not answered.
        messages: Everything received since the start, HELLO included.
        pages: By instance, in the order of creation; they survive `die`.
    """

    abi: Abi
    path: Path
    limit_bytes: int = 1 << 30
    others_bytes: int = 0
    capacity_bytes: int = 1 << 30
    gpus: int = 1
    devices: tuple[Device, ...] = tuple(Device(bytes([0xA0 + gpu] * 16), 0, 5 + gpu, 0) for gpu in range(8))
    hello: str = "WELCOME"
    context_hint_bytes: int = 0
    silent: bool = False
    fail_open: bool = False
    messages: list[Message] = field(default_factory=list)
    pages: dict[int, Page] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._pages_of: dict[socket.socket, Page] = {}
        self._pending: list[_Pending] = []
        self._thread: threading.Thread | None = None
        self._layout = self.abi.ffi.sizeof("struct cvg_message")

    # ---- Life ----

    def start(self) -> FakeDaemon:
        """Listen; with the pages of the daemon before, if there was one."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen(512)
        self._stop_read, self._stop_write = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stop_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def die(self) -> None:
        """End at once, as SIGKILL does: sockets close, what was not answered never will be."""
        if self._thread is None:
            return
        os.write(self._stop_write, b"x")
        self._thread.join()
        self._thread = None
        with self._lock:
            for connection in self._pages_of:
                connection.close()
            self._pages_of.clear()
            self._pending.clear()
        self._listener.close()
        self._selector.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    # ---- What a test does and asks ----

    def page(self, number: int = 0) -> Page:
        """The page of the process that joined as number `number`."""
        return list(self.pages.values())[number]

    def account(self, number: int = 0, device: int = 0) -> Account:
        """One account of that page."""
        return self.page(number).account(device)

    def asked(self, kind: str = "ACQUIRE") -> list[Message]:
        """The messages of one type so far."""
        with self._lock:
            return [message for message in self.messages if message.type == self._type(kind)]

    def waiting(self) -> list[Message]:
        """The requests that are suspended."""
        with self._lock:
            return [pending.message for pending in self._pending]

    def release_others(self, size_bytes: int) -> None:
        """Other containers give memory back."""
        with self._lock:
            self.others_bytes -= size_bytes
            self._retry()

    def deny_waiting(self) -> None:
        """The wait time of all suspended requests is over."""
        with self._lock:
            for pending in self._pending:
                self._answer(pending, "DENIED", reason=self.abi.lib.CVG_REASON_WAIT_TIMEOUT)
            self._pending.clear()

    def connections(self) -> int:
        """Open connections."""
        with self._lock:
            return len(self._pages_of)

    def until(self, condition: Callable[[], bool], timeout_s: float = 5) -> None:
        """Wait for something to become true, and fail if it does not."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, "did not happen in time"
            time.sleep(0.002)

    # ---- Service ----

    def _type(self, kind: str) -> int:
        return int(getattr(self.abi.lib, f"CVG_{kind}"))

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._stop_read:
                    return
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    self._selector.register(connection, selectors.EVENT_READ)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._receive(key.fileobj)

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(self._layout + 1)
        except OSError:
            data = b""
        with self._lock:
            if not data:
                self._selector.unregister(connection)
                self._pages_of.pop(connection, None)
                self._pending = [pending for pending in self._pending if pending.connection is not connection]
                connection.close()
                return
            assert len(data) == self._layout, f"a message of {len(data)} bytes"
            raw = self.abi.ffi.from_buffer("struct cvg_message *", data)
            assert raw.abi_version == self.abi.lib.CVG_ABI_VERSION
            message = Message(raw.type, raw.request, raw.size_bytes, raw.since_ns, raw.device, raw.flags, raw.api)
            self.messages.append(message)
            self._dispatch(connection, message)

    def _dispatch(self, connection: socket.socket, message: Message) -> None:
        if message.type == self._type("HELLO"):
            self._welcome(connection, message)
            return
        assert connection in self._pages_of, "the first message has to be HELLO"
        pending = _Pending(connection, self._pages_of[connection], message)
        if self.silent:
            return
        if message.type == self._type("ACQUIRE"):
            self._decide(pending)
        elif message.type == self._type("RELEASED"):
            self._retry()
        elif message.type == self._type("QUERY"):
            free_bytes = max(self.limit_bytes - self._used(message.device), 0)
            self._answer(pending, "INFO", total_bytes=self.limit_bytes, free_bytes=free_bytes)
        elif message.type == self._type("PROCESS"):
            users = [(page.pid, page.account(message.device).used) for page in self.pages.values()]
            users = [user for user in users if user[1] > 0][message.size_bytes :]
            reason = self.abi.lib.CVG_REASON_NONE if users else self.abi.lib.CVG_REASON_DEVICE
            pid, used_bytes = users[0] if users else (0, 0)
            self._answer(pending, "PROCESS", reason=reason, total_bytes=pid, free_bytes=used_bytes)

    def _welcome(self, connection: socket.socket, message: Message) -> None:
        if self.hello != "WELCOME":
            self._send(connection, self.hello, reason=self.abi.lib.CVG_REASON_UNKNOWN)
            return
        page = self.pages.get(message.request) if message.request else self._new_page(connection)
        if page is None:
            self._send(connection, "REFUSED", reason=self.abi.lib.CVG_REASON_UNKNOWN)
            return
        self._pages_of[connection] = page
        self._send(connection, "WELCOME", descriptor=page.descriptor, request=page.instance)

    def _new_page(self, connection: socket.socket) -> Page:
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        descriptor = os.memfd_create("page")
        os.ftruncate(descriptor, self.abi.lib.CVG_PAGE_BYTES)
        view = mmap.mmap(descriptor, self.abi.lib.CVG_PAGE_BYTES)
        raw = self.abi.ffi.from_buffer("struct cvg_page *", view, require_writable=True)
        page = Page(secrets.randbits(63) | 1, pid, descriptor, raw, self.abi.lib, self.abi.ffi)
        self.abi.lib.cvg_page_init(raw, page.instance, pid, 0)
        self.abi.lib.cvg_page_set_fail_open(raw, self.fail_open)
        for index, gpu in enumerate(self.devices[: self.gpus]):
            slot = self.abi.lib.cvg_page_add_device(raw, gpu.uuid, gpu.pci_domain, gpu.pci_bus, gpu.pci_device, index)
            self.abi.lib.cvg_page_set_limit(raw, slot, self.limit_bytes)
            self.abi.lib.cvg_page_set_context_hint(raw, slot, self.context_hint_bytes)
        self.pages[page.instance] = page
        return page

    # ---- Decisions ----

    def _used(self, device: int) -> int:
        accounts = [page.account(device) for page in self.pages.values()]
        return sum(account.granted - account.credit for account in accounts)

    def _reclaim(self, device: int) -> None:
        for page in self.pages.values():
            self.abi.lib.cvg_page_reclaim(page.raw, device)

    def _assigned(self, device: int) -> int:
        return sum(page.account(device).granted for page in self.pages.values())

    def _fits(self, device: int, size_bytes: int) -> bool:
        room = min(self.limit_bytes, self.capacity_bytes - self.others_bytes)
        if self._assigned(device) + size_bytes > room:
            self._reclaim(device)
        return self._assigned(device) + size_bytes <= room

    def _decide(self, pending: _Pending) -> None:
        message, flags = pending.message, pending.message.flags
        if message.device >= self.gpus:
            self._answer(pending, "DENIED", reason=self.abi.lib.CVG_REASON_DEVICE)
        elif flags & self.abi.lib.CVG_FLAG_FORCE or self._fits(message.device, message.size_bytes):
            self._grant(pending)
        elif self._used(message.device) + message.size_bytes > self.limit_bytes:
            self._answer(pending, "DENIED", reason=self.abi.lib.CVG_REASON_LIMIT)
        elif flags & self.abi.lib.CVG_FLAG_NOWAIT:
            self._answer(pending, "DENIED", reason=self.abi.lib.CVG_REASON_NOT_NOW)
        else:
            self._pending.append(pending)
            self._set_wanted()
            self._retry()  # a free may have come between the first look and `wanted`

    def _grant(self, pending: _Pending) -> None:
        size_bytes = pending.message.size_bytes
        self.abi.lib.cvg_page_grant(pending.page.raw, pending.message.device, size_bytes)
        if not self._answer(pending, "GRANTED", size_bytes=size_bytes):
            self.abi.lib.cvg_page_ungrant(pending.page.raw, pending.message.device, size_bytes)

    def _retry(self) -> None:
        for pending in list(self._pending):
            if self._fits(pending.message.device, pending.message.size_bytes):
                self._pending.remove(pending)
                self._grant(pending)
        self._set_wanted()

    def _set_wanted(self) -> None:
        for page in self.pages.values():
            self.abi.lib.cvg_page_set_wanted(page.raw, bool(self._pending))

    # ---- Answers ----

    def _answer(self, pending: _Pending, kind: str, **fields: int) -> bool:
        return self._send(pending.connection, kind, request=pending.message.request, **fields)

    def _send(self, connection: socket.socket, kind: str, descriptor: int | None = None, **fields: int) -> bool:
        raw = self.abi.ffi.new("struct cvg_message *")
        raw.type, raw.abi_version = self._type(kind), self.abi.lib.CVG_ABI_VERSION
        for name, value in fields.items():
            setattr(raw, name, value)
        try:
            socket.send_fds(connection, [bytes(self.abi.ffi.buffer(raw))], [] if descriptor is None else [descriptor])
        except OSError:
            return False
        return True
