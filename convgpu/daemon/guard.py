# SPDX-License-Identifier: Apache-2.0
"""The processes' side of the daemon: who says HELLO, who has ended, what a restart finds."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from convgpu.config.layers import InForce
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.units import MIB, format_size
from convgpu.daemon.abi import Message, load_abi
from convgpu.daemon.arbiter import Arbiter
from convgpu.daemon.clients import ClientConnection
from convgpu.daemon.containers import Containers
from convgpu.daemon.journal import Journal
from convgpu.daemon.observer import Observer
from convgpu.daemon.page import PAGE_SUFFIX, UNFINISHED_SUFFIX, CreditPage
from convgpu.daemon.registry import GuardedContainer, GuardedProcess, Registry
from convgpu.daemon.state import StateFile
from convgpu.errors import ConvgpuError, ProtocolError
from convgpu.native import native_dir
from convgpu.sources import cgroup, procfs
from convgpu.sources.docker import ContainerSource

_LOG: Final = logging.getLogger("convgpu.daemon")
_EXEC_GRACE_S: Final = 0.05
"""A process whose last connection closed is either ending, and its pidfd says so, or has replaced its program."""
FIRST_CONTEXT_BYTES: Final = 640 * MIB
"""Before anybody measured one: a context takes 518 MiB on an H100 and on an H200 with driver 580 (docs/results)."""
_HEAL_AFTER_S: Final = 2.0
"""By then every client of a dead daemon has asked again, and a page at rest tells what was lost with that daemon."""
_HOOK_LINE: Final = re.compile(r"^\s*CVG_HOOK\(\s*(\w+)", re.MULTILINE)


def api_names() -> tuple[str, ...]:
    """Return the names of the hooked calls in the order of the wrapper's symbols.def."""
    return tuple(_HOOK_LINE.findall((native_dir() / "include" / "symbols.def").read_text()))


def surviving_pages(folder: Path) -> tuple[list[CreditPage], list[str]]:
    """Map the credit pages whose processes still run; remove the others.

    A page of another version is left where it is: its process keeps what it has, and its wrapper, which speaks another
    version too, is refused more until its container is started again.

    Returns:
        The pages, and what is to be said of those that could not be read.
    """
    for unfinished in folder.glob(f"*{UNFINISHED_SUFFIX}"):
        unfinished.unlink()  # made by a daemon that died before it sent the page to anybody
    pages = []
    unreadable = []
    for path in sorted(folder.glob(f"*{PAGE_SUFFIX}")):
        try:
            page = CreditPage.open(path)
        except ProtocolError as error:
            _LOG.warning("%s", error.message)
            unreadable.append(error.message)
            continue
        try:
            alive = procfs.start_ticks(page.key.pid) == page.key.start_ticks
        except procfs.ProcessGoneError:
            alive = False
        if alive:
            pages.append(page)
        else:
            page.discard()
    return pages, unreadable


class Guard:
    """Answers the client socket and follows every process to its end.

    Attributes:
        surviving: Pages of an earlier daemon, waiting for `adopt_surviving`.
        closing: The daemon stops: what ends now ends because of that.
    """

    def __init__(
        self,
        pages_dir: Path,
        registry: Registry,
        engine: Engine,
        arbiter: Arbiter,
        containers: Containers,
        journal: Journal,
        observer: Observer,
        docker: ContainerSource,
        state: StateFile,
        in_force: InForce,
    ) -> None:
        self._pages_dir = pages_dir
        self._registry = registry
        self._engine = engine
        self._arbiter = arbiter
        self._containers = containers
        self._journal = journal
        self._observer = observer
        self._docker = docker
        self._state = state
        self._in_force = in_force
        self._tasks: set[asyncio.Task[None]] = set()
        self._registering: dict[ContainerId, asyncio.Lock] = {}
        self.surviving: list[CreditPage] = []
        self.closing = False
        self.loop = asyncio.get_running_loop()

    def now_ns(self) -> int:
        """Return the time by which decisions are made, monotonic nanoseconds."""
        return self._arbiter.now_ns()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background; a failure goes to the loop's exception handler."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler({"message": "background work failed", "exception": task.exception()})

    def has_page(self, container: ContainerId) -> bool:
        """Tell whether a process of a container left a page behind for this daemon."""
        for page in self.surviving:
            try:
                if cgroup.container_of(page.key.pid) == container:
                    return True
            except procfs.ProcessGoneError:
                continue
        return False

    async def adopt_surviving(self) -> None:
        """Take up the processes that an earlier daemon knew, with exactly what they hold."""
        adopted: list[int] = []
        for page in self.surviving:
            try:
                descriptor, key = procfs.open_process(page.key.pid)
                container = cgroup.container_of(key.pid)
            except procfs.ProcessGoneError:
                page.discard()
                continue
            if key != page.key or container not in self._registry.containers:
                os.close(descriptor)
                if key != page.key:
                    page.discard()
                continue
            process = self._enrol(descriptor, key, container, page)
            page.set_fail_open(fail_open=self._in_force.config.fail_open)
            held_bytes = 0
            for slot, gpu in enumerate(page.gpus):
                account = page.read(slot)
                held_bytes += account.held_bytes
                if account.unexplained_bytes < 0:
                    # Taken by the driver while no daemon was there to record it: it is held all the same.
                    page.heal(slot, account.granted_bytes - account.unexplained_bytes)
                    account = page.read(slot)
                self._engine.adopt(key, gpu, account.granted_bytes)
                self._journal.process_found(process, gpu, account.granted_bytes)
            adopted.append(held_bytes)
        self.surviving = []
        if adopted:
            self._journal.write(
                "reconcile",
                f"{len(adopted)} processes of an earlier daemon taken over, holding {format_size(sum(adopted))}",
                reason="processes of an earlier daemon taken over",
                count=len(adopted),
                used_bytes=sum(adopted),
            )
        self.loop.call_later(_HEAL_AFTER_S, self._heal)

    def _heal(self) -> None:
        """Give back what a dying daemon granted and never delivered: bytes that a page at rest cannot explain."""
        for process in tuple(self._registry.processes.values()):
            for slot, gpu in enumerate(process.page.gpus):
                first, second = process.page.read(slot), process.page.read(slot)
                lost_bytes = first.unexplained_bytes
                if first != second or lost_bytes <= 0 or any(each.waiting for each in process.connections):
                    continue
                held_bytes = self._engine.held(process.key, gpu)
                if lost_bytes > held_bytes:
                    self._arbiter.on_forged(process, gpu, lost_bytes)
                    continue
                process.page.heal(slot, first.granted_bytes - lost_bytes)
                self._journal.reclaimed(process, gpu, lost_bytes, "granted by an earlier daemon and never arrived")
                self._arbiter.carry_out(self._engine.release(process.key, gpu, lost_bytes, self._arbiter.now_ns()))

    async def hello(self, connection: ClientConnection, message: Message) -> None:
        """Answer HELLO: WELCOME with the page, UNMANAGED, or REFUSED with a reason."""
        lib = load_abi().lib
        if message.abi_version != lib.CVG_ABI_VERSION:
            self._refuse(connection, message, lib.CVG_REASON_VERSION, "its wrapper has another ABI version")
            return
        try:
            descriptor, key = connection.peer()
        except procfs.ProcessGoneError:
            connection.close()
            return
        known = self._registry.processes.get(key)
        if known is not None and self._same_program(known, message):
            os.close(descriptor)
            self._welcome(connection, message, known)
            return
        if known is not None:
            # The pid and start time are the same, the page is not mapped any more: exec replaced the program.
            self._retire(known)
        try:
            await self._first_hello(connection, message, descriptor, key)
        except procfs.ProcessGoneError:
            os.close(descriptor)
            connection.close()

    @staticmethod
    def _same_program(known: GuardedProcess, message: Message) -> bool:
        if message.request == known.page.instance:
            return True
        return procfs.maps_file(known.key.pid, *known.page.file_id)

    async def _first_hello(
        self, connection: ClientConnection, message: Message, descriptor: int, key: ProcessKey
    ) -> None:
        lib = load_abi().lib
        container = cgroup.container_of(key.pid)
        if container is None:
            os.close(descriptor)
            connection.send(Message(type=lib.CVG_UNMANAGED, request=message.request))
            return
        try:
            guarded = await self._container(container)
        except ConvgpuError as error:
            os.close(descriptor)
            self._refuse(connection, message, lib.CVG_REASON_UNKNOWN, error.message)
            return
        known = self._registry.processes.get(key)
        if known is not None:
            # Another thread's HELLO of the same process was answered while Docker was asked.
            os.close(descriptor)
            self._welcome(connection, message, known)
            return
        page = CreditPage.create(self._pages_dir, key, guarded.gpus)
        for slot, gpu in enumerate(page.gpus):
            page.set_context_hint(slot, self._context_bytes(gpu))
        page.set_fail_open(fail_open=self._in_force.config.fail_open)
        process = self._enrol(descriptor, key, guarded.container_id, page)
        self._journal.process_seen(process)
        # The probes are in place before the process allocates: the witness misses nothing of it.
        await self.attach_probes(key.pid)
        self._welcome(connection, message, process)

    def _context_bytes(self, gpu: GpuUuid) -> int:
        """Return the most that a context was measured to cost on a device, or a first guess.

        A context must be reserved as a whole: libcuda does not get over every refusal halfway (docs/results).
        """
        costs = self._state.state.context_bytes
        for process in self._registry.processes.values():
            slot = process.slot_of(gpu)
            measured_bytes = process.page.read(slot).context_bytes if slot is not None else 0
            if measured_bytes > costs.get(gpu, 0):
                costs[gpu] = measured_bytes
        return costs.get(gpu, FIRST_CONTEXT_BYTES)

    async def _container(self, container: ContainerId) -> GuardedContainer:
        """Return a container, asking Docker about one that an event has not announced yet."""
        lock = self._registering.setdefault(container, asyncio.Lock())
        async with lock:
            guarded = self._registry.containers.get(container)
            if guarded is None:
                facts = await asyncio.to_thread(self._docker.inspect, container)
                if facts is None:
                    raise ConvgpuError(f"Docker knows no container {container[:12]}")
                guarded = self._containers.register(facts)
        self._registering.pop(container, None)
        return guarded

    async def attach_probes(self, pid: int) -> None:
        """Watch the CUDA libraries that a process has mapped."""
        await self._observer.discover(pid)

    def _enrol(self, descriptor: int, key: ProcessKey, container: ContainerId, page: CreditPage) -> GuardedProcess:
        process = GuardedProcess(
            key=key,
            container=container,
            comm=procfs.command_name(key.pid),
            user_id=procfs.user_id(key.pid),
            descriptor=descriptor,
            page=page,
        )
        for slot, gpu in enumerate(page.gpus):
            page.set_limit(slot, self._engine.most_bytes(container, gpu))
        self._registry.containers[container].note_cgroup(key.pid)
        self._registry.join(process)
        self._engine.start_process(key, container)
        self._arbiter.mark(process)
        self.loop.add_reader(descriptor, self._process_ended, process)
        return process

    def _welcome(self, connection: ClientConnection, message: Message, process: GuardedProcess) -> None:
        lib = load_abi().lib
        connection.process = process
        process.connections.add(connection)
        connection.send(
            Message(type=lib.CVG_WELCOME, request=process.page.instance, since_ns=message.since_ns),
            process.page.descriptor,
        )

    def _refuse(self, connection: ClientConnection, message: Message, reason: int, text: str) -> None:
        lib = load_abi().lib
        self._journal.write("reconcile", reason=f"a process was refused: {text}")
        connection.send(Message(type=lib.CVG_REFUSED, request=message.request, reason=reason))

    def acquire(self, connection: ClientConnection, message: Message) -> None:
        """Decide about a request."""
        self._arbiter.acquire(connection, message)

    def released(self, connection: ClientConnection) -> None:
        """A process gave memory back while somebody waits."""
        if connection.process is not None:
            self._arbiter.released(connection.process)

    def query(self, connection: ClientConnection, message: Message) -> None:
        """Answer what a container may see of its device."""
        self._arbiter.query(connection, message)

    def query_process(self, connection: ClientConnection, message: Message) -> None:
        """Answer which processes of a container use its device."""
        self._arbiter.query_process(connection, message)

    def protocol_error(self, connection: ClientConnection, text: str) -> None:
        """A client sent something that is not a message: say so, once for each connection."""
        who = f"process {connection.process.key.pid}" if connection.process is not None else "a client"
        self._journal.write("reconcile", reason=f"{who} was cut off: {text}")

    def disconnected(self, connection: ClientConnection) -> None:
        """A connection ended: its waiting requests end with it; the process may have replaced its program."""
        if self.closing:
            return
        self._arbiter.disconnected(connection)
        process = connection.process
        if process is not None:
            process.connections.discard(connection)
            if not process.connections:
                self.loop.call_later(_EXEC_GRACE_S, self._check_replaced, process)

    def _check_replaced(self, process: GuardedProcess) -> None:
        current = self._registry.processes.get(process.key)
        if current is not process or process.connections or self.closing:
            return
        if not procfs.maps_file(process.key.pid, *process.page.file_id):
            self._retire(process)

    def _process_ended(self, process: GuardedProcess) -> None:
        self._retire(process)
        self._observer.ended(process.key.pid)

    def _retire(self, process: GuardedProcess) -> None:
        """A process, or the program it was, is gone: everything it held is free."""
        if not self._registry.leave(process):
            return
        self.loop.remove_reader(process.descriptor)
        os.close(process.descriptor)
        used_bytes = sum(process.page.read(slot).used_bytes for slot in range(len(process.page.gpus)))
        self._containers.note_peak(process)
        for connection in tuple(process.connections):
            connection.process = None
            connection.close()
        self._journal.process_gone(process, used_bytes)
        self._arbiter.process_ended(process)
        process.page.discard()

    def end_container(self, guarded: GuardedContainer) -> None:
        """A container stopped: its processes are gone, or are no longer its."""
        if self._registry.containers.get(guarded.container_id) is not guarded:
            return
        for process in tuple(self._registry.processes_of(guarded.container_id)):
            self._process_ended(process)
        self._containers.end(guarded)

    def close(self) -> None:
        """Let go of processes and pages, leaving the page files for the next daemon."""
        for process in self._registry.processes.values():
            self.loop.remove_reader(process.descriptor)
            os.close(process.descriptor)
            process.page.close()
        for guarded in self._registry.containers.values():
            self._containers.unwatch(guarded)
