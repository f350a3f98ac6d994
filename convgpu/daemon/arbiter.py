# SPDX-License-Identifier: Apache-2.0
"""Between the pure engine and the processes: takes requests in, carries decisions out.

The engine knows what a process was granted. A process may hold part of that as idle credit, which only its page shows;
so before anybody is refused or made to wait, idle credit is taken back, first from the container itself, then from
containers that hold more than their guarantee (`docs/architecture.md`, Credit).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from convgpu.core.decision import Admitted, Decision, Denied, Granted, NotAdmitted, Reason, Suspended
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.request import Request
from convgpu.daemon.abi import Message, load_abi
from convgpu.daemon.clients import ClientConnection
from convgpu.daemon.journal import Journal
from convgpu.daemon.registry import GuardedProcess, Registry
from convgpu.sources import procfs

_BOUNDARY_API: Final = "boundary"


@dataclass(slots=True)
class _Asker:
    """Where an answer goes."""

    connection: ClientConnection
    process: GuardedProcess
    message: Message


class _Words:
    """Numbers of the protocol that every request needs, read once."""

    def __init__(self) -> None:
        constant = load_abi().constant
        self.granted = constant("CVG_GRANTED")
        self.denied = constant("CVG_DENIED")
        self.nowait = constant("CVG_FLAG_NOWAIT")
        self.force = constant("CVG_FLAG_FORCE")
        self.again = constant("CVG_FLAG_AGAIN")
        self.device = constant("CVG_REASON_DEVICE")
        self.unknown = constant("CVG_REASON_UNKNOWN")
        self.reasons = {
            Reason.LIMIT: constant("CVG_REASON_LIMIT"),
            Reason.GROUP_LIMIT: constant("CVG_REASON_LIMIT"),
            Reason.NOT_NOW: constant("CVG_REASON_NOT_NOW"),
            Reason.WAIT_TIMEOUT: constant("CVG_REASON_WAIT_TIMEOUT"),
            Reason.DEVICE: self.device,
        }


class Arbiter:
    """Carries out what the engine decides.

    Args:
        engine: The judge.
        registry: Who is there.
        journal: Where decisions are written.
        api_names: Names of the hooked calls, by their line in the wrapper's symbols.def, from 1.
        on_change: Called after every event of the engine, before its answers are sent.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        journal: Journal,
        *,
        api_names: tuple[str, ...],
        on_change: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.engine = engine
        self.on_admission: Callable[[Admitted | NotAdmitted], None] = lambda _: None
        self.on_forged: Callable[[GuardedProcess, GpuUuid, int], None] = lambda *_: None
        self._registry = registry
        self._journal = journal
        self._api_names = api_names
        self._on_change = on_change
        self._clock = clock
        self._words = _Words()
        self._askers: dict[int, _Asker] = {}
        self._next_id = 0
        self._wanted: set[GpuUuid] = set()
        self._timer: asyncio.TimerHandle | None = None

    def now_ns(self) -> int:
        """Return the time by which decisions are made, monotonic nanoseconds."""
        return self._clock()

    def acquire(self, connection: ClientConnection, message: Message) -> None:
        """Decide about one ACQUIRE and answer now or later."""
        words = self._words
        process = connection.process
        assert process is not None  # noqa: S101  # the connection dispatches only after WELCOME
        if message.device >= len(process.page.gpus) or message.size_bytes == 0:
            connection.send(Message(type=words.denied, request=message.request, reason=words.device))
            return
        gpu = process.page.gpus[message.device]
        now_ns = self._clock()
        flags = message.flags
        # A process may name its arrival itself only when it asked an earlier daemon: it is never in the future, and
        # it orders requests within the process's own container only.
        again = flags & words.again and message.since_ns
        self._next_id += 1
        request_id = self._next_id
        request = Request(
            request_id=request_id,
            process=process.key,
            container=process.container,
            gpu=gpu,
            size_bytes=message.size_bytes,
            waitable=not flags & words.nowait,
            forced=bool(flags & words.force),
            arrived_ns=min(message.since_ns, now_ns) if again else now_ns,
            api=self._api_name(message.api),
        )
        self._askers[request_id] = _Asker(connection, process, message)
        if not request.forced:
            self._make_room(process.container, gpu, message.size_bytes)
        self.carry_out(self.engine.request(request, now_ns))
        if request_id in self._askers:
            # It waits. A free may have slipped in before `wanted` was set: look once more.
            connection.waiting.add(request_id)
            self._reclaim_for_waiters(gpu)

    def _api_name(self, line: int) -> str:
        return self._api_names[line - 1] if 0 < line <= len(self._api_names) else _BOUNDARY_API

    def released(self, process: GuardedProcess) -> None:
        """A process announced a free: take its credit where somebody waits."""
        for gpu in process.page.gpus:
            if gpu in self._wanted:
                self._reclaim(process, gpu)

    def sweep(self) -> None:
        """Look for credit where somebody waits: an announcement of a free may have been lost with its connection."""
        for gpu in tuple(self._wanted):
            self._reclaim_for_waiters(gpu)

    def query(self, connection: ClientConnection, message: Message) -> None:
        """Answer QUERY: the limit, and what is left of it."""
        lib = load_abi().lib
        process = connection.process
        assert process is not None  # noqa: S101  # the connection dispatches only after WELCOME
        if message.device >= len(process.page.gpus):
            connection.send(Message(type=lib.CVG_DENIED, request=message.request, reason=lib.CVG_REASON_DEVICE))
            return
        gpu = process.page.gpus[message.device]
        limit_bytes = self.engine.most_bytes(process.container, gpu)
        held_bytes = self._registry.held_bytes(process.container, gpu)
        connection.send(
            Message(
                type=lib.CVG_INFO,
                request=message.request,
                device=message.device,
                total_bytes=limit_bytes,
                free_bytes=max(0, limit_bytes - held_bytes),
            )
        )

    def query_process(self, connection: ClientConnection, message: Message) -> None:
        """Answer PROCESS: the container's process of that number on a device, as the asker's own namespace names it."""
        lib = load_abi().lib
        asker = connection.process
        assert asker is not None  # noqa: S101  # the connection dispatches only after WELCOME
        answer = Message(type=lib.CVG_PROCESS, request=message.request, reason=lib.CVG_REASON_DEVICE)
        if message.device < len(asker.page.gpus):
            gpu = asker.page.gpus[message.device]
            users = []
            for process in self._registry.processes_of(asker.container):
                slot = process.slot_of(gpu)
                used_bytes = 0 if slot is None else process.page.read(slot).used_bytes
                if used_bytes:
                    users.append((process.key.pid, used_bytes))
            if message.size_bytes < len(users):
                pid, used_bytes = sorted(users)[message.size_bytes]
                with suppress(procfs.ProcessGoneError):  # it has ended meanwhile: the list ends here
                    answer = Message(
                        type=lib.CVG_PROCESS,
                        request=message.request,
                        total_bytes=procfs.namespace_pid(pid),
                        free_bytes=used_bytes,
                    )
        connection.send(answer)

    def disconnected(self, connection: ClientConnection) -> None:
        """A connection ended: nobody waits on it any more."""
        for request_id in tuple(connection.waiting):
            asker = self._askers.pop(request_id, None)
            if asker is not None:
                gpu = asker.process.page.gpus[asker.message.device]
                self._journal.withdrawn(request_id, asker.process, gpu, asker.message.size_bytes)
                self.carry_out(self.engine.cancel(request_id, self._clock()))
        connection.waiting.clear()

    def process_ended(self, process: GuardedProcess) -> None:
        """A process is gone: what it held is free."""
        for request_id, asker in tuple(self._askers.items()):
            if asker.process is process:
                del self._askers[request_id]
        self.carry_out(self.engine.end_process(process.key, process.container, self._clock()))

    def _make_room(self, container: ContainerId, gpu: GpuUuid, size_bytes: int) -> None:
        """Turn idle credit back into free memory, no further than needed."""
        if self.engine.headroom(container, gpu) >= size_bytes:
            return
        self._reclaim_container(container, gpu)
        if self.engine.headroom(container, gpu) >= size_bytes:
            return
        for other in self.engine.surplus(gpu):
            if other != container:
                self._reclaim_container(other, gpu)

    def _reclaim_for_waiters(self, gpu: GpuUuid) -> None:
        for container in {entry.request.container for entry in self.engine.queue(gpu)}:
            self._reclaim_container(container, gpu)
        for container in self.engine.surplus(gpu):
            self._reclaim_container(container, gpu)

    def _reclaim_container(self, container: ContainerId, gpu: GpuUuid) -> None:
        for process in self._registry.processes_of(container):
            self._reclaim(process, gpu)

    def _reclaim(self, process: GuardedProcess, gpu: GpuUuid) -> None:
        slot = process.slot_of(gpu)
        if slot is None:
            return
        size_bytes = process.page.reclaim(slot)
        if not size_bytes:
            return
        held_bytes = self.engine.held(process.key, gpu)
        if size_bytes > process.page.most_credit(slot, held_bytes):
            # Its owner wrote into the page, so nothing that it says is taken for free: it may well be in use.
            process.page.heal(slot, held_bytes)
            self.on_forged(process, gpu, size_bytes)
        else:
            self._journal.reclaimed(process, gpu, size_bytes, "idle credit")
            self.carry_out(self.engine.release(process.key, gpu, size_bytes, self._clock()))

    def carry_out(self, decisions: Iterable[Decision]) -> None:
        """Send and log what the engine decided, whatever event brought it about."""
        self._on_change()
        for decision in decisions:
            if isinstance(decision, Admitted | NotAdmitted):
                self.on_admission(decision)
                continue
            asker = self._askers.get(int(decision.request.request_id))
            if asker is None:
                # The asker's connection ended while the engine decided: give a grant straight back.
                if isinstance(decision, Granted):
                    self._give_back(decision.request)
                continue
            match decision:
                case Granted():
                    self._grant(asker, decision)
                case Denied():
                    self._deny(asker, decision)
                case Suspended():
                    self._journal.decided(decision, asker.process)
        self._update_wanted()
        self._arm_timer()

    def _grant(self, asker: _Asker, decision: Granted) -> None:
        size_bytes = decision.request.size_bytes
        self._forget(decision.request.request_id, asker)
        # First the page, then the message: whatever dies in between, `granted` covers what the process holds.
        asker.process.page.grant(asker.message.device, size_bytes)
        sent = asker.connection.send(
            Message(
                type=self._words.granted,
                request=asker.message.request,
                size_bytes=size_bytes,
                device=asker.message.device,
            )
        )
        self._journal.decided(decision, asker.process, delivered=sent)
        if not sent:
            asker.process.page.ungrant(asker.message.device, size_bytes)
            self._give_back(decision.request)

    def _deny(self, asker: _Asker, decision: Denied) -> None:
        self._forget(decision.request.request_id, asker)
        asker.connection.send(
            Message(
                type=self._words.denied,
                request=asker.message.request,
                device=asker.message.device,
                reason=self._words.reasons.get(decision.reason, self._words.unknown),
            )
        )
        self._journal.decided(decision, asker.process)

    def _forget(self, request_id: int | str, asker: _Asker) -> None:
        self._askers.pop(int(request_id), None)
        asker.connection.waiting.discard(int(request_id))

    def _give_back(self, request: Request) -> None:
        process = self._registry.processes.get(request.process)
        if process is not None:
            self._journal.reclaimed(process, request.gpu, request.size_bytes, "undelivered grant")
            self.carry_out(self.engine.release(process.key, request.gpu, request.size_bytes, self._clock()))

    def _update_wanted(self) -> None:
        """Keep every page's `wanted` flag equal to: somebody waits for a device of this page."""
        wanted = set(self.engine.waiting_gpus())
        if wanted == self._wanted:
            return
        self._wanted = wanted
        for process in self._registry.processes.values():
            self.mark(process)

    def mark(self, process: GuardedProcess) -> None:
        """Set a page's `wanted` flag as it has to be now; new processes start with it too."""
        process.page.set_wanted(wanted=not self._wanted.isdisjoint(process.page.gpus))

    def _arm_timer(self) -> None:
        deadline_ns = self.engine.next_deadline_ns()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline_ns is not None:
            delay_s = max(0, deadline_ns - self._clock()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.carry_out(self.engine.expire(self._clock()))
