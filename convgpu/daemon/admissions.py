# SPDX-License-Identifier: Apache-2.0
"""Starts that wait (`convgpu run --admit wait`): the container is created, and started when it has its guarantee."""

from __future__ import annotations

import asyncio
from typing import Final

from convgpu.core.decision import Admitted, NotAdmitted
from convgpu.core.identity import ContainerId
from convgpu.core.starting import AdmitAnswer, AdmitArguments
from convgpu.daemon.containers import Containers
from convgpu.daemon.guard import Guard
from convgpu.daemon.journal import Journal
from convgpu.daemon.registry import GuardedContainer, Registry
from convgpu.errors import QuotaRefusedError, UnknownContainerError, UsageError
from convgpu.sources.docker import ContainerFacts, ContainerSource

START_GRACE_S: Final = 60.0
"""An admitted container that was not started by then keeps nothing set aside: whoever asked has died in between."""
_NS_PER_MS: Final = 1_000_000


class Admissions:
    """Answers `admit` when the engine has decided."""

    def __init__(
        self, docker: ContainerSource, registry: Registry, containers: Containers, guard: Guard, journal: Journal
    ) -> None:
        self._docker = docker
        self._registry = registry
        self._containers = containers
        self._guard = guard
        self._journal = journal
        self._waiting: dict[ContainerId, asyncio.Future[Admitted | NotAdmitted]] = {}

    async def admit(self, arguments: AdmitArguments) -> AdmitAnswer:
        """Wait until a created container has its whole guarantee. Cancelled, the start is given up.

        Raises:
            UnknownContainerError: Docker knows no such container.
            UsageError: It has been started already, or somebody waits for it already.
            QuotaRefusedError: It can never have its guarantee, or its time is over.
        """
        facts = await asyncio.to_thread(self._docker.inspect, arguments.container)
        if facts is None:
            raise UnknownContainerError(f"Docker knows no container {arguments.container[:12]}")
        if facts.state != "created" or facts.container_id in self._registry.containers:
            raise UsageError(f"container {facts.name} cannot wait for its start: it is {facts.state}, or waits already")
        return await self.wait_for(facts, arguments.since_ns)

    async def wait_for(self, facts: ContainerFacts, since_ns: int = 0) -> AdmitAnswer:
        """Wait for the guarantee of a container that is about to start. Cancelled, the start is given up.

        Args:
            facts: What Docker says of it.
            since_ns: When its start was first asked for, CLOCK_MONOTONIC; 0: now.

        Raises:
            QuotaRefusedError: It can never have its guarantee, or its time is over.
        """
        now_ns = self._guard.now_ns()
        queued_ns = min(since_ns, now_ns) if since_ns else now_ns
        decided: asyncio.Future[Admitted | NotAdmitted] = self._guard.loop.create_future()
        self._waiting[facts.container_id] = decided
        guarded: GuardedContainer | None = None
        try:
            guarded = self._containers.register(facts, queued_ns)
            if not decided.done():
                self._journal.write(
                    "start.suspended",
                    container=self._journal.container(facts.container_id),
                    guarantee_bytes=guarded.guarantee_bytes,
                )
            decision = await decided
        except asyncio.CancelledError:
            # Whoever waited is gone, so nobody would start it.
            if guarded is not None and not self._guard.closing:
                self._guard.end_container(guarded)
            raise
        finally:
            del self._waiting[facts.container_id]
        if isinstance(decision, NotAdmitted):
            raise QuotaRefusedError(
                f"container {facts.name} was not started: {decision.reason} after {decision.waited_ns / 1e9:.1f} s",
                next_step="see `convgpu queue`; ask for a smaller guarantee, or wait longer",
            )
        self._guard.loop.call_later(START_GRACE_S, self._check_started, guarded)
        return AdmitAnswer(waited_ms=decision.waited_ns // _NS_PER_MS)

    def decided(self, decision: Admitted | NotAdmitted) -> None:
        """The engine decided about a start."""
        reason = {"reason": str(decision.reason)} if isinstance(decision, NotAdmitted) else {}
        self._journal.write(
            "start.denied" if reason else "start.admitted",
            container=self._journal.container(decision.container),
            waited_ns=decision.waited_ns,
            **reason,
        )
        guarded = self._registry.containers.get(decision.container)
        if isinstance(decision, NotAdmitted) and guarded is not None:
            self._guard.end_container(guarded)
        waiting = self._waiting.get(decision.container)
        if waiting is not None and not waiting.done():
            waiting.set_result(decision)

    def _check_started(self, guarded: GuardedContainer) -> None:
        if guarded.starting and not self._guard.closing:
            self._guard.end_container(guarded)
