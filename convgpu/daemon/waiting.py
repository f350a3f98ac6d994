# SPDX-License-Identifier: Apache-2.0
"""Who waits, as people and programs see it: suspended allocations of every device, then containers that start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from convgpu.core.admission import PendingStart
from convgpu.core.engine import Engine
from convgpu.core.explain import Explanation, Obstacle
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.queue import QueueEntry
from convgpu.core.status import WaitingStatus
from convgpu.core.units import format_size
from convgpu.daemon.registry import Registry
from convgpu.sources.nvml import Gpu

_NS_PER_MS: Final = 1_000_000
_EXPLAINED_MOST: Final = 32
"""Explanations are made while nobody else is answered, so there are only so many at a time."""
_NAMES_MOST: Final = 3


class WaitingList:
    """Joins the engine's queues with the names of what waits there."""

    def __init__(self, engine: Engine, registry: Registry, gpus: tuple[Gpu, ...], clock: Callable[[], int]) -> None:
        self._engine = engine
        self._registry = registry
        self._gpus = gpus
        self._clock = clock

    def entries(self) -> tuple[WaitingStatus, ...]:
        """Return all that wait, without explanations."""
        now_ns = self._clock()
        shown: list[WaitingStatus] = []
        for gpu in self._gpus:
            full: dict[ContainerId, str | None] = {}
            for entry in self._engine.queue(gpu.uuid):
                status = self._allocation(entry, now_ns)
                if status.group is not None:
                    container = entry.request.container
                    if container not in full:
                        full[container] = self._engine.full_group(container, gpu.uuid, entry.need_bytes)
                    status = replace(status, full_group=full[container])
                shown.append(status)
        return (*shown, *self._starts(now_ns))

    def explained(self, container: ContainerId | None) -> tuple[WaitingStatus, ...]:
        """Return those of one container, or all; the first of them say what would let them go on."""
        now_ns = self._clock()
        shown: list[WaitingStatus] = []
        for gpu in self._gpus:
            for entry in self._engine.queue(gpu.uuid):
                if container in (None, entry.request.container):
                    status = self._allocation(entry, now_ns)
                    if len(shown) < _EXPLAINED_MOST:
                        explanation = self._engine.explain(entry.request.request_id)
                        if explanation is not None:
                            status = self._explain(status, explanation)
                    shown.append(status)
        starts = {start.container: start for start in self._engine.pending_starts()}
        for status in self._starts(now_ns):
            if container in (None, status.container_id):
                explanations = self._engine.explain_start(starts[ContainerId(status.container_id)])
                explanation = explanations.get(GpuUuid(status.uuid))
                shown.append(status if explanation is None else self._explain(status, explanation))
        return tuple(shown)

    def _allocation(self, entry: QueueEntry, now_ns: int) -> WaitingStatus:
        request = entry.request
        process = self._registry.processes.get(request.process)
        return WaitingStatus(
            kind="allocation",
            container_id=request.container,
            container_name=self._registry.name_of(request.container),
            uuid=request.gpu,
            pid=request.process.pid,
            comm=process.comm if process is not None else None,
            api=request.api,
            size_bytes=request.size_bytes,
            need_bytes=entry.need_bytes,
            waited_ms=max(0, now_ns - request.arrived_ns) // _NS_PER_MS,
            left_ms=None if entry.deadline_ns is None else max(0, entry.deadline_ns - now_ns) // _NS_PER_MS,
            position=entry.position,
            place=entry.reason,
            passed=entry.passed,
            overdue=entry.overdue,
            group=self._group(request.container),
        )

    def _starts(self, now_ns: int) -> Iterator[WaitingStatus]:
        """One entry for each device of each start, so that every device's share of the wait is shown."""
        for position, start in enumerate(self._engine.pending_starts(), start=1):
            for holding in start.holdings:
                yield WaitingStatus(
                    kind="start",
                    container_id=start.container,
                    container_name=self._registry.name_of(start.container),
                    uuid=holding.gpu,
                    size_bytes=holding.quota.guarantee_bytes,
                    need_bytes=holding.quota.guarantee_bytes,
                    waited_ms=max(0, now_ns - start.place.since[0]) // _NS_PER_MS,
                    left_ms=None if start.deadline_ns is None else max(0, start.deadline_ns - now_ns) // _NS_PER_MS,
                    position=position,
                    place=self._place(start),
                    passed=start.place.passed,
                    overdue=self._engine.is_overdue(start.place),
                    group=self._group(start.container),
                )

    def _group(self, container: ContainerId) -> str | None:
        guarded = self._registry.containers.get(container)
        return None if guarded is None else guarded.group

    def _place(self, start: PendingStart) -> str:
        if self._engine.is_overdue(start.place):
            return f"passed over {start.place.passed} times: nothing that starts later goes before it"
        return "starts are looked at in the order in which they were asked for"

    def _explain(self, status: WaitingStatus, explanation: Explanation) -> WaitingStatus:
        index = next((gpu.index for gpu in self._gpus if gpu.uuid == status.uuid), None)
        return replace(
            status,
            obstacle=str(explanation.obstacle),
            goes_on=self._sentence(explanation, f"GPU {index}"),
            enough=explanation.enough,
            full_group=explanation.group,
        )

    def _sentence(self, explanation: Explanation, where: str) -> str:
        need, free = format_size(explanation.need_bytes), format_size(max(0, explanation.free_bytes))
        if explanation.obstacle is Obstacle.HELD_BACK:
            return f"when {self._names(explanation.behind)}, overdue since before it started, has gone on"
        if explanation.obstacle is Obstacle.NOT_FREE:
            text = f"when {need} are free on {where} ({free} now)"
            if explanation.group is not None:
                text = f"{text} and group {explanation.group} has room for them ({_room(explanation)} now)"
        elif explanation.obstacle is Obstacle.GROUP:
            text = f"when group {explanation.group} has room for {need} ({_room(explanation)} now; {where} has {free})"
            if explanation.need_bytes <= (explanation.group_free_bytes or 0):
                kept = f"the {_room(explanation)} that group {explanation.group} has room for on {where}"
                text = f"when {kept} need not be kept for others in it to finish with"
        else:
            text = f"when the {free} that are free on {where} need not be kept for others to finish with"
        if explanation.enough:
            return f"{text}; the end of {self._names(explanation.enough, 'or')} is enough"
        if explanation.together:
            return f"{text}; the ends of {self._names(explanation.together)} are enough"
        return f"{text}; what stands in the way is held outside of ConvGPU"

    def _names(self, containers: tuple[ContainerId, ...], last: str = "and") -> str:
        names = [self._registry.name_of(container) for container in containers[:_NAMES_MOST]]
        if len(containers) > _NAMES_MOST:
            names[-1:] = [names[-1], f"{len(containers) - _NAMES_MOST} more"]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _room(explanation: Explanation) -> str:
    return format_size(max(0, explanation.group_free_bytes or 0))
