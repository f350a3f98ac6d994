# SPDX-License-Identifier: Apache-2.0
"""Every state that small programs can reach: without the safety rule some are deadlocks, with it none is.

The programs are the worst kind: one thread each, which asks for memory until its limit is reached, in any order of
devices and sizes, gives nothing back, and ends at any moment at which it does not wait.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from convgpu.core.algorithms import Fifo
from convgpu.core.decision import Suspended
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request

GPU0, GPU1 = GpuUuid("GPU-0"), GpuUuid("GPU-1")
Limits = dict[str, dict[GpuUuid, tuple[int, int]]]

ONE_OF_TWO_DEVICES_EACH: Limits = {
    "ann": {GPU0: (1, 0), GPU1: (1, 0)},
    "bob": {GPU0: (1, 0), GPU1: (1, 0)},
}
THREE_ON_TWO_DEVICES: Limits = {
    "ann": {GPU0: (2, 0), GPU1: (1, 0)},
    "bob": {GPU0: (1, 0), GPU1: (2, 1)},
    "cyd": {GPU0: (2, 1), GPU1: (2, 0)},
}
THREE_ON_ONE_DEVICE: Limits = {"ann": {GPU0: (4, 0)}, "bob": {GPU0: (3, 1)}, "cyd": {GPU0: (2, 0)}}


class World:
    """The engine and what the programs can do next."""

    def __init__(self, limits: Limits, capacity: int, *, safe: bool) -> None:
        self.limits = limits
        gpus = sorted({gpu for of_container in limits.values() for gpu in of_container})
        self.engine = Engine(dict.fromkeys(gpus, capacity), Fifo(), safe=safe)
        self.alive: dict[str, ProcessKey] = {}
        for number, (name, quotas) in enumerate(limits.items(), start=1):
            self.engine.start_container(ContainerId(name), number, {gpu: Quota(*of) for gpu, of in quotas.items()})
            self.alive[name] = ProcessKey(number, 1)
            self.engine.start_process(self.alive[name], ContainerId(name))
        self.steps = 0

    def waiting(self) -> set[str]:
        return {entry.request.container for gpu in self.engine.gpus for entry in self.engine.queue(gpu)}

    def key(self) -> object:
        """All that the future depends on."""
        return tuple(
            (name, gpu, (account := self.engine.account(ContainerId(name), gpu, 0)).assigned_bytes, account.used_bytes)
            for name in sorted(self.alive)
            for gpu in self.limits[name]
        ) + tuple(
            (entry.request.container, entry.request.size_bytes, gpu)
            for gpu in self.engine.gpus
            for entry in self.engine.queue(gpu)
        )

    def successors(self) -> Iterator[World]:
        for name in sorted(self.alive.keys() - self.waiting()):
            ended = copy.deepcopy(self)
            del ended.alive[name]
            ended.engine.end_container(ContainerId(name), 0)
            yield ended
            for gpu, (limit, _) in self.limits[name].items():
                used = self.engine.account(ContainerId(name), gpu, 0).used_bytes
                for size in range(1, limit - used + 1):
                    yield self.after_request(name, gpu, size)

    def after_request(self, name: str, gpu: GpuUuid, size: int) -> World:
        world = copy.deepcopy(self)
        world.steps += 1
        request = Request(
            world.steps,
            self.alive[name],
            ContainerId(name),
            gpu,
            size,
            waitable=True,
            forced=False,
            arrived_ns=0,
            api="",
        )
        world.engine.request(request, 0)
        return world


def explore(start: World) -> tuple[int, int]:
    """Visit all reachable states; return how many there are, and how many of them are deadlocks."""
    seen = {start.key()}
    todo = [start]
    deadlocks = 0
    while todo:
        world = todo.pop()
        world.engine.check()
        deadlocks += bool(world.alive) and world.waiting() == world.alive.keys()
        for successor in world.successors():
            key = successor.key()
            if key not in seen:
                seen.add(key)
                todo.append(successor)
    return len(seen), deadlocks


WORLDS = [
    pytest.param(ONE_OF_TWO_DEVICES_EACH, 1, id="two containers, two devices"),
    pytest.param(THREE_ON_TWO_DEVICES, 2, id="three containers, two devices"),
    pytest.param(THREE_ON_ONE_DEVICE, 4, id="three containers, one device"),
]


@pytest.mark.parametrize(("limits", "capacity"), WORLDS)
def test_without_the_safety_rule_a_deadlock_is_reachable(limits: Limits, capacity: int) -> None:
    _, deadlocks = explore(World(limits, capacity, safe=False))
    assert deadlocks > 0


@pytest.mark.parametrize(("limits", "capacity"), WORLDS)
def test_with_the_safety_rule_no_deadlock_is_reachable(limits: Limits, capacity: int) -> None:
    states, deadlocks = explore(World(limits, capacity, safe=True))
    assert states > 20
    assert deadlocks == 0


def test_the_classic_trap() -> None:
    """Each holds one device and wants the other: the second to reach out has to wait before it holds anything."""
    unsafe = World(ONE_OF_TWO_DEVICES_EACH, 1, safe=False)
    safe = World(ONE_OF_TWO_DEVICES_EACH, 1, safe=True)
    for world in (unsafe, safe):
        for name, gpu in (("ann", GPU0), ("bob", GPU1)):
            world.steps += 1
            process = world.alive[name]
            world.engine.request(Request(world.steps, process, ContainerId(name), gpu, 1, True, False, 0, ""), 0)
    assert unsafe.waiting() == set()
    assert safe.waiting() == {"bob"}
    first = safe.engine.request(Request(9, safe.alive["ann"], ContainerId("ann"), GPU1, 1, True, False, 0, ""), 0)[0]
    assert not isinstance(first, Suspended)
