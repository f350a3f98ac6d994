# SPDX-License-Identifier: Apache-2.0
"""How large the allocations of each container were, as the witness saw them: one histogram for each place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from convgpu.core.histogram import Histogram
from convgpu.core.identity import ContainerId
from convgpu.core.trace import ALLOC
from convgpu.sources.witness import EventSource, WitnessEvent

CONTAINERS_KEPT: Final = 2048
"""Of those that are gone, the ones that allocated last are kept."""


class Sizes:
    """Counts since the daemon started, without what the kernel's ring had no room for."""

    def __init__(self) -> None:
        self._by_container: dict[ContainerId, dict[str, Histogram]] = {}

    def note(self, events: Iterable[WitnessEvent], container_of: Callable[[WitnessEvent], ContainerId | None]) -> None:
        """Count the allocations among some events.

        There may be more than a hundred thousand a second, so containers are looked for once for each cgroup.
        """
        counts: dict[tuple[int, EventSource, int], int] = {}
        examples: dict[int, WitnessEvent] = {}
        for event in events:
            if event.kind == ALLOC:
                key = (event.cgroup_id, event.source, event.size_bytes.bit_length())
                counts[key] = counts.get(key, 0) + 1
                examples.setdefault(event.cgroup_id, event)
        containers = {cgroup: container_of(event) for cgroup, event in examples.items()}
        for (cgroup, source, bits), count in counts.items():
            container = containers[cgroup]
            if container is not None:
                histograms = self._by_container.pop(container, {})
                histograms.setdefault(source, Histogram()).add((1 << bits) - 1, count)
                self._by_container[container] = histograms  # at the end: the one that allocated last
        while len(self._by_container) > CONTAINERS_KEPT:
            del self._by_container[next(iter(self._by_container))]

    def of(self, container: ContainerId) -> dict[str, dict[int, int]]:
        """Return counts by source and power of two."""
        return {source: dict(each.rows()) for source, each in self._by_container.get(container, {}).items()}
