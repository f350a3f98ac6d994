# SPDX-License-Identifier: Apache-2.0
"""How large the allocations of each container were, as the witness saw them: one histogram for each place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from convgpu.core.histogram import Histogram
from convgpu.core.identity import ContainerId
from convgpu.core.trace import ALLOC
from convgpu.sources.witness import WitnessEvent

CONTAINERS_KEPT: Final = 2048
"""Of those that are gone, the ones that allocated last are kept."""


class Sizes:
    """Counts since the daemon started, without what the kernel's ring had no room for."""

    def __init__(self) -> None:
        self._by_container: dict[ContainerId, dict[str, Histogram]] = {}

    def note(self, located: Iterable[tuple[WitnessEvent, ContainerId | None]]) -> None:
        """Count the allocations among some events."""
        for event, container in located:
            if container is None or event.kind != ALLOC:
                continue
            histograms = self._by_container.pop(container, {})
            histograms.setdefault(event.source, Histogram()).add(event.size_bytes)
            self._by_container[container] = histograms  # at the end: the one that allocated last
        while len(self._by_container) > CONTAINERS_KEPT:
            del self._by_container[next(iter(self._by_container))]

    def of(self, container: ContainerId) -> dict[str, dict[int, int]]:
        """Return counts by source and power of two."""
        return {source: dict(each.rows()) for source, each in self._by_container.get(container, {}).items()}
