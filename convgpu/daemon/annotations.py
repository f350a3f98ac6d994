# SPDX-License-Identifier: Apache-2.0
"""Annotations that an engine's API does not tell: those of Podman, which its containers' hooks report as they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from convgpu.core.identity import ContainerId
from convgpu.daemon.state import StateFile
from convgpu.sources.docker import ContainerEvent, ContainerFacts, ContainerSource


class AnnotatedSource:
    """A `ContainerSource` whose containers have the annotations that were remembered of them among their labels.

    Args:
        source: The engine.
        state: Keeps them: a restarted daemon must know them too, and nobody tells them twice.
    """

    def __init__(self, source: ContainerSource, state: StateFile) -> None:
        self._source = source
        self._state = state

    def remember(self, container: ContainerId, annotations: Mapping[str, str]) -> None:
        """Keep what a container's annotations say, until the engine removes it."""
        self._state.container(container).annotations = dict(annotations)
        self._state.save()

    def inspect(self, container: str) -> ContainerFacts | None:
        """Look one container up by id or name."""
        facts = self._source.inspect(container)
        return None if facts is None else self._with_annotations(facts)

    def running(self) -> tuple[ContainerFacts, ...]:
        """List the containers that run now."""
        return tuple(map(self._with_annotations, self._source.running()))

    def _with_annotations(self, facts: ContainerFacts) -> ContainerFacts:
        saved = self._state.state.containers.get(facts.container_id)
        if saved is None or not saved.annotations:
            return facts
        return replace(facts, labels={**facts.labels, **saved.annotations})

    def pause(self, container: ContainerId) -> None:
        """Freeze all processes of a container."""
        self._source.pause(container)

    def stop(self, container: ContainerId) -> None:
        """End a container."""
        self._source.stop(container)

    def watch(self, on_event: Callable[[ContainerEvent], None], on_gap: Callable[[], None]) -> None:
        """Report events from another thread until `close`."""
        self._source.watch(on_event, on_gap)

    def close(self) -> None:
        """Stop watching."""
        self._source.close()
