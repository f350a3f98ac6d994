# SPDX-License-Identifier: Apache-2.0
"""Nobody is passed over for ever: `max_bypass`, and why newcomers are held back while somebody is overdue."""

from __future__ import annotations

from itertools import count

import pytest

from convgpu.core.algorithms import Fifo, Priority
from convgpu.core.decision import Decision, Granted
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request

GPU = GpuUuid("GPU-0")
OTHER = GpuUuid("GPU-1")
BIG = ContainerId("big")


class World:
    """An engine and a clock; every container has one process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ticks = count(1)
        self.processes: dict[str, ProcessKey] = {}

    def start(self, name: str, quotas: dict[GpuUuid, Quota], *, priority: int = 0) -> None:
        now_ns = next(self.ticks)
        self.engine.start_container(ContainerId(name), now_ns, quotas, priority=priority)
        self.processes[name] = ProcessKey(now_ns, 1)
        self.engine.start_process(self.processes[name], ContainerId(name))
        self.engine.check()

    def ask(self, name: str, size: int, gpu: GpuUuid = GPU) -> list[str]:
        now_ns = next(self.ticks)
        request = Request(now_ns, self.processes[name], ContainerId(name), gpu, size, True, False, now_ns, "")
        return self.granted(self.engine.request(request, now_ns))

    def free(self, name: str, size: int) -> list[str]:
        return self.granted(self.engine.release(self.processes[name], GPU, size, next(self.ticks)))

    def end(self, name: str) -> list[str]:
        return self.granted(self.engine.end_container(ContainerId(name), next(self.ticks)))

    def assigned(self, name: str) -> int:
        return self.engine.account(ContainerId(name), GPU, 0).assigned_bytes

    def granted(self, decisions: list[Decision]) -> list[str]:
        self.engine.check()
        return [decision.request.container for decision in decisions if isinstance(decision, Granted)]


def turns_until_the_patient_one_is_served(max_bypass: int, most: int) -> int | None:
    """Two containers of high priority take turns; a third one waits from the start. Returns the turn that was its."""
    world = World(Engine({GPU: 10}, Priority(), max_bypass=max_bypass))
    for name, priority in (("even", 1), ("odd", 1), ("patient", 0)):
        world.start(name, {GPU: Quota(6, 0)}, priority=priority)
    assert world.ask("even", 6) == ["even"]
    assert world.ask("patient", 6) == []
    holder, other = "even", "odd"
    for turn in range(most):
        assert world.ask(other, 6) == []
        served = world.free(holder, 6)
        if "patient" in served:
            return turn
        assert served == [other]
        # The other one's first turn was a step on its way to its limit. Then both take again what they had.
        assert world.engine.passed(ContainerId("patient"), GPU) == turn
        holder, other = other, holder
    return None


def test_without_a_bound_priority_starves() -> None:
    assert turns_until_the_patient_one_is_served(0, 200) is None


@pytest.mark.parametrize("max_bypass", [1, 3, 64])
def test_a_waiter_is_passed_over_max_bypass_times_and_not_once_more(max_bypass: int) -> None:
    assert turns_until_the_patient_one_is_served(max_bypass, 200) == max_bypass + 1


def test_who_started_earlier_and_is_on_its_way_to_its_limit_passes_nobody_over() -> None:
    world = World(Engine({GPU: 8}, Priority(), max_bypass=1))
    world.start("old", {GPU: Quota(6, 0)}, priority=1)
    world.start("young", {GPU: Quota(4, 0)})
    for name in "abcd":
        world.start(name, {GPU: Quota(1, 0)})
        assert world.ask(name, 1) == [name]
    assert world.ask("old", 4) == ["old"]
    assert world.ask("young", 4) == []
    for name in "ab":
        assert world.ask("old", 1) == []
        assert world.end(name) == ["old"]
        assert world.engine.passed(ContainerId("young"), GPU) == 0
    assert world.free("old", 1) == [], "young gets that as a part of what it waits for"
    assert world.ask("old", 1) == []
    assert world.end("c") == ["old"], "it takes again what it had, and that counts"
    assert [(entry.passed, entry.overdue) for entry in world.engine.queue(GPU)] == [(1, True)]


def test_the_bound_can_be_changed_while_somebody_waits() -> None:
    world = World(Engine({GPU: 10}, Priority(), max_bypass=0))
    for name, priority in (("even", 1), ("odd", 1), ("patient", 0)):
        world.start(name, {GPU: Quota(6, 0)}, priority=priority)
    world.ask("even", 6)
    world.ask("patient", 6)
    world.ask("odd", 6)
    assert world.free("even", 6) == ["odd"]
    world.ask("even", 6)
    assert world.free("odd", 6) == ["even"]
    assert [entry.overdue for entry in world.engine.queue(GPU)] == [False]
    world.engine.set_max_bypass(1, 0)
    assert [entry.overdue for entry in world.engine.queue(GPU)] == [True]
    world.engine.set_max_bypass(2, 0)
    assert [entry.overdue for entry in world.engine.queue(GPU)] == [False]


def newcomers_until_big_is_served(max_bypass: int, most: int) -> int | None:
    """One waits for all of a device and may want all of the other; newcomers, always one at least, use both.

    They take their guarantee on the other device only. Yet giving the rest of the first to the one that waits would be
    unsafe every time: it could not finish before the newcomer that is there, which could still ask for some.
    """
    world = World(Engine({GPU: 10, OTHER: 10}, Fifo(), max_bypass=max_bypass))
    world.start("big", {GPU: Quota(10, 0), OTHER: Quota(10, 0)})
    newcomer = {GPU: Quota(2, 0), OTHER: Quota(1, 1)}
    world.start("0", newcomer)
    assert world.ask("big", 10) == []
    for number in range(1, most):
        world.start(str(number), newcomer)
        if "big" in world.end(str(number - 1)):
            return number
    return None


def test_without_a_bound_newcomers_starve_one_that_waits_for_a_whole_device() -> None:
    assert newcomers_until_big_is_served(0, 200) is None


@pytest.mark.parametrize("max_bypass", [1, 5, 64])
def test_newcomers_are_held_back_while_somebody_is_overdue(max_bypass: int) -> None:
    assert newcomers_until_big_is_served(max_bypass, 200) == max_bypass + 1


def test_who_is_held_back_starts_with_nothing_and_gets_its_guarantee_when_its_turn_comes() -> None:
    world = World(Engine({GPU: 10, OTHER: 10}, Fifo(), max_bypass=1))
    newcomer = {GPU: Quota(2, 0), OTHER: Quota(1, 1)}
    world.start("big", {GPU: Quota(10, 0), OTHER: Quota(10, 0)})
    world.start("first", newcomer)
    world.ask("big", 10)
    world.start("second", newcomer)
    world.start("third", newcomer)
    account = world.engine.account(ContainerId("third"), OTHER, 0)
    assert (account.guarantee_bytes, account.assigned_bytes) == (1, 0)
    assert world.ask("third", 1, OTHER) == [], "there is plenty, but it must not get in front of big"
    world.end("first")
    assert world.end("second") == ["big"]
    assert world.end("big") == ["third"]
    assert world.engine.account(ContainerId("third"), OTHER, 0).assigned_bytes == 1


def test_a_container_that_is_given_memory_by_force_is_held_back_no_longer() -> None:
    """Others may depend on what it holds, so it must be able to go on."""
    world = World(Engine({GPU: 10, OTHER: 10}, Fifo(), max_bypass=1))
    newcomer = {GPU: Quota(2, 0), OTHER: Quota(2, 0)}
    world.start("big", {GPU: Quota(10, 0), OTHER: Quota(10, 0)})
    world.start("first", {GPU: Quota(2, 0), OTHER: Quota(1, 1)})
    world.ask("big", 10)
    world.start("second", {GPU: Quota(2, 0), OTHER: Quota(1, 1)})
    world.start("third", newcomer)
    assert world.ask("third", 1, OTHER) == []
    forced = Request("forced", world.processes["third"], ContainerId("third"), OTHER, 1, False, True, 99, "")
    assert world.granted(world.engine.request(forced, 99)) == ["third", "third"]
