# SPDX-License-Identifier: Apache-2.0
"""A container engine that lives in memory and behaves: containers start, end and are reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convgpu.core.identity import ContainerId
from convgpu.errors import ConvgpuError
from convgpu.sources.docker import ContainerEvent, ContainerFacts


class FakeContainerSource:
    """A `ContainerSource` whose containers a test starts and ends.

    Attributes:
        known: What `inspect` finds, by id.
        halted: What `pause` and `stop` were asked to do, in order: verb and container.
        refuse: Why `pause` and `stop` fail; None: they do not.
    """

    def __init__(self) -> None:
        self.known: dict[ContainerId, ContainerFacts] = {}
        self.halted: list[tuple[str, ContainerId]] = []
        self.refuse: str | None = None
        self._on_event: Callable[[ContainerEvent], None] = lambda _: None
        self._on_gap: Callable[[], None] = lambda: None
        self._clock_ns = 0

    def add(self, facts: ContainerFacts, *, announce: bool = True) -> None:
        """Start a container; without `announce`, as when its event is late."""
        self.known[facts.container_id] = facts
        if announce:
            self.tell(facts.container_id, "start")

    def end(self, container: ContainerId, exit_code: int = 0) -> None:
        """End a container; it stays known, as an exited one."""
        self.known[container] = replace(self.known[container], state="exited", pid=0)
        self.tell(container, "die", exit_code)

    def remove(self, container: ContainerId) -> None:
        """Remove an exited container."""
        del self.known[container]
        self.tell(container, "destroy")

    def tell(self, container: ContainerId, action: str, exit_code: int | None = None) -> None:
        """Report an event, whatever is known."""
        self._clock_ns += 1
        self._on_event(
            ContainerEvent(container_id=container, action=action, time_ns=self._clock_ns, exit_code=exit_code)
        )

    def inspect(self, container: str) -> ContainerFacts | None:
        """Look a container up by id or name."""
        for facts in self.known.values():
            if container in (facts.container_id, facts.name):
                return facts
        return None

    def running(self) -> tuple[ContainerFacts, ...]:
        """List those that run."""
        return tuple(facts for facts in self.known.values() if facts.state == "running")

    def pause(self, container: ContainerId) -> None:
        """Freeze a container."""
        self._halt("pause", container)
        self.known[container] = replace(self.known[container], state="paused")
        self.tell(container, "pause")

    def unpause(self, container: ContainerId) -> None:
        """Let it go on."""
        self.known[container] = replace(self.known[container], state="running")
        self.tell(container, "unpause")

    def stop(self, container: ContainerId) -> None:
        """End a container."""
        self._halt("stop", container)
        self.end(container)

    def _halt(self, verb: str, container: ContainerId) -> None:
        self.halted.append((verb, container))
        if self.refuse is not None:
            raise ConvgpuError(self.refuse)
        if container not in self.known:
            raise ConvgpuError(f"no such container: {container}")

    def watch(self, on_event: Callable[[ContainerEvent], None], on_gap: Callable[[], None]) -> None:
        """Report from now on; the stream's beginning counts as a gap, as with the real engine."""
        self._on_event, self._on_gap = on_event, on_gap
        on_gap()

    def begin_anew(self) -> None:
        """Let the stream of events break and begin anew: what happened meanwhile was never reported."""
        self._on_gap()

    def close(self) -> None:
        """Stop reporting."""
        self._on_event = lambda _: None
