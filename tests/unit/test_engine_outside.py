# SPDX-License-Identifier: Apache-2.0
"""What reaches the engine from outside of its rules: operators, the driver, other programs, restarts of the daemon."""

from __future__ import annotations

import pytest

from convgpu.core.algorithms import Fifo
from convgpu.core.decision import Decision, Granted
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.ledger import Account, Carried
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.errors import QuotaRefusedError, UnknownContainerError, UsageError

GPU = GpuUuid("GPU-0")
NAMES = ("ann", "bob", "cyd")


def process(name: str) -> ProcessKey:
    return ProcessKey(NAMES.index(name) + 100, 1)


class World:
    """An engine whose containers have one process each; ids of requests are counted up."""

    def __init__(self, *containers: tuple[str, int, int], capacity: int = 10) -> None:
        self.engine = Engine({GPU: capacity}, Fifo())
        self.asked = 0
        for name, limit, guarantee in containers:
            self.start(name, limit, guarantee)

    def start(self, name: str, limit: int, guarantee: int, assigned: dict[GpuUuid, int] | None = None) -> None:
        created_ns = NAMES.index(name)
        quotas = {GPU: Quota(limit, guarantee)}
        if assigned is None:
            self.engine.start_container(ContainerId(name), created_ns, quotas)
        else:
            self.engine.restore_container(
                ContainerId(name), created_ns, quotas, carried={gpu: Carried(size) for gpu, size in assigned.items()}
            )
        self.engine.start_process(process(name), ContainerId(name))

    def ask(self, name: str, size: int, *, forced: bool = False) -> list[str]:
        self.asked += 1
        request = Request(self.asked, process(name), ContainerId(name), GPU, size, True, forced, 0, "cuMemAlloc_v2")
        return self.checked(self.engine.request(request, 0))

    def set_quota(self, name: str, limit: int, guarantee: int) -> list[str]:
        return self.checked(self.engine.set_quota(ContainerId(name), GPU, Quota(limit, guarantee), 0))

    def set_capacity(self, capacity: int) -> list[str]:
        return self.checked(self.engine.set_capacity(GPU, capacity, 0))

    def end(self, name: str) -> list[str]:
        return self.checked(self.engine.end_container(ContainerId(name), 0))

    def checked(self, decisions: list[Decision]) -> list[str]:
        self.engine.check()
        return [
            f"{describe(decision)} {decision.request.container} {decision.request.size_bytes}" for decision in decisions
        ]

    def account(self, name: str) -> Account:
        return self.engine.account(ContainerId(name), GPU, 0)

    def assigned(self, *names: str) -> list[int]:
        return [self.account(name).assigned_bytes for name in names]


def describe(decision: Decision) -> str:
    if isinstance(decision, Granted):
        return "resumed" if decision.resumed else "granted"
    return str(getattr(decision, "reason", "suspended"))


# Limits that change.


def test_a_raised_limit_lets_the_next_request_wait_instead_of_being_denied() -> None:
    world = World(("ann", 8, 8), ("bob", 2, 2))
    assert world.ask("bob", 3) == ["limit bob 3"]
    assert world.set_quota("bob", 4, 4) == []
    assert world.ask("bob", 3) == ["suspended bob 3"]
    assert world.end("ann") == ["resumed bob 3"]


def test_a_raised_guarantee_is_set_aside_from_what_is_free() -> None:
    world = World(("ann", 4, 2), ("bob", 4, 4))
    assert world.set_quota("ann", 6, 6) == []
    assert world.assigned("ann", "bob") == [6, 4]


def test_a_limit_lowered_below_use_takes_nothing_away_and_gives_nothing_more() -> None:
    world = World(("ann", 8, 8))
    world.ask("ann", 6)
    assert world.set_quota("ann", 4, 4) == []
    account = world.account("ann")
    assert (account.used_bytes, account.assigned_bytes, account.over) == (6, 6, True)
    assert world.ask("ann", 1) == ["limit ann 1"]
    world.checked(world.engine.release(process("ann"), GPU, 3, 0))
    assert not world.account("ann").over
    assert world.ask("ann", 1) == ["granted ann 1"]
    assert world.assigned("ann") == [4]


def test_a_lowered_limit_frees_what_others_wait_for() -> None:
    world = World(("ann", 8, 8), ("bob", 5, 5))
    world.ask("ann", 3)
    assert world.ask("bob", 4) == ["suspended bob 4"]
    assert world.set_quota("ann", 5, 5) == ["resumed bob 4"]


def test_what_waits_and_can_never_fit_under_the_new_limit_is_denied() -> None:
    world = World(("ann", 8, 8), ("bob", 8, 8))
    world.ask("bob", 2)
    for size in (3, 2, 1):
        assert world.ask("bob", size) == [f"suspended bob {size}"]
    assert world.set_quota("bob", 6, 6) == ["limit bob 2"], "three fits first, then one beside it"
    assert world.account("bob").waiting_bytes == 4


def test_a_limit_above_the_capacity_is_refused_and_nothing_changes() -> None:
    world = World(("ann", 4, 4))
    with pytest.raises(QuotaRefusedError, match="11B is more than the 10B") as refused:
        world.set_quota("ann", 11, 4)
    assert refused.value.next_step == "choose a limit of at most 10B"
    assert world.account("ann").limit_bytes == 4


def test_a_limit_that_could_block_is_refused_and_the_largest_that_cannot_is_named() -> None:
    world = World(("ann", 6, 0), ("bob", 6, 0))
    world.ask("ann", 4)
    world.ask("bob", 4)
    assert world.set_quota("ann", 10, 0) == []
    with pytest.raises(QuotaRefusedError, match="wait for each other for ever") as refused:
        world.set_quota("bob", 10, 0)
    assert refused.value.next_step is not None
    assert "at most 6 bytes" in refused.value.next_step
    with pytest.raises(QuotaRefusedError):
        world.set_quota("bob", 7, 0)
    assert world.set_quota("bob", 6, 0) == []


def test_settings_of_the_unknown_are_refused() -> None:
    world = World(("ann", 4, 4))
    with pytest.raises(UnknownContainerError):
        world.set_quota("bob", 4, 4)
    with pytest.raises(UsageError, match="no limit on GPU-1"):
        world.engine.set_quota(ContainerId("ann"), GpuUuid("GPU-1"), Quota(1, 1), 0)
    with pytest.raises(UsageError, match="no device GPU-1"):
        world.engine.set_capacity(GpuUuid("GPU-1"), 1, 0)


# Memory taken by force.


def test_what_the_driver_gave_is_recorded_even_above_the_limit() -> None:
    world = World(("ann", 4, 4))
    world.ask("ann", 4)
    assert world.ask("ann", 1, forced=True) == ["granted ann 1"]
    account = world.account("ann")
    assert (account.used_bytes, account.assigned_bytes, account.over) == (5, 5, True)
    assert world.engine.free_bytes(GPU) == 5


def test_it_comes_out_of_what_others_do_not_use_the_latest_first() -> None:
    world = World(("ann", 4, 4), ("bob", 3, 3), ("cyd", 3, 3))
    world.ask("ann", 4)
    assert world.ask("ann", 4, forced=True) == ["granted ann 4"]
    assert world.assigned("ann", "bob", "cyd") == [8, 2, 0]
    assert world.ask("cyd", 3) == ["suspended cyd 3"]
    assert world.end("ann") == ["resumed cyd 3"]


def test_where_nobody_has_any_to_spare_the_device_is_short() -> None:
    world = World(("ann", 4, 4), ("bob", 6, 6))
    world.ask("ann", 4)
    world.ask("bob", 6)
    world.ask("ann", 1, forced=True)
    assert world.engine.free_bytes(GPU) == -1
    world.checked(world.engine.release(process("bob"), GPU, 2, 0))
    assert world.engine.free_bytes(GPU) == 0
    assert world.ask("bob", 2) == ["suspended bob 2"]
    assert world.end("ann") == ["resumed bob 2"]


def test_it_can_leave_no_room_for_what_waits() -> None:
    world = World(("ann", 8, 8), ("bob", 5, 5))
    assert world.ask("bob", 5) == ["suspended bob 5"]
    assert world.ask("bob", 1, forced=True) == ["granted bob 1", "limit bob 5"]


# Capacity that comes and goes.


def test_lost_capacity_is_taken_from_what_is_not_used_guarantees_last() -> None:
    world = World(("ann", 2, 1), ("bob", 3, 3))
    world.ask("ann", 2)
    world.ask("bob", 1)
    assert world.set_capacity(4) == []
    assert world.assigned("ann", "bob") == [2, 2]
    assert world.ask("bob", 2) == ["suspended bob 2"]
    assert world.set_capacity(5) == ["resumed bob 2"]


def test_a_container_above_the_lost_capacity_waits_for_its_return() -> None:
    world = World(("ann", 8, 0))
    world.ask("ann", 2)
    world.set_capacity(4)
    assert world.ask("ann", 2) == ["granted ann 2"]
    assert world.ask("ann", 4) == ["suspended ann 4"]
    assert world.set_capacity(9) == ["resumed ann 4"]


# A restart of the daemon.


def test_a_request_asked_again_after_its_deadline_does_not_wait() -> None:
    world = World(("ann", 10, 10))
    world.engine.restore_container(ContainerId("bob"), 2, {GPU: Quota(5, 5)}, wait_ns=100, carried={GPU: Carried(0)})
    world.engine.start_process(process("bob"), ContainerId("bob"))
    request = Request(1, process("bob"), ContainerId("bob"), GPU, 1, True, False, 20, "cuMemAlloc_v2")
    assert world.checked(world.engine.request(request, 120)) == ["wait_timeout bob 1"]


def test_after_a_restart_every_assignment_is_as_before() -> None:
    before = World(("ann", 5, 5), ("bob", 1, 1), ("cyd", 5, 5))
    before.ask("ann", 5)
    before.set_quota("bob", 3, 3)
    after = World()
    for name, limit in (("ann", 5), ("bob", 3), ("cyd", 5)):
        after.start(name, limit, limit, assigned={GPU: before.account(name).assigned_bytes})
        after.engine.adopt(process(name), GPU, before.account(name).used_bytes)
        after.engine.check()
    assert after.assigned(*NAMES) == before.assigned(*NAMES) == [5, 1, 4]
    assert after.ask("bob", 2) == ["suspended bob 2"], "its limit is three, but two of that were never set aside"


def test_without_a_state_file_what_processes_hold_decides() -> None:
    after = World(("ann", 5, 5), ("bob", 3, 3), ("cyd", 5, 5))
    assert after.assigned(*NAMES) == [5, 3, 2]
    for name, held in (("cyd", 4), ("bob", 1), ("ann", 5)):
        after.engine.adopt(process(name), GPU, held)
        after.engine.check()
    assert after.assigned(*NAMES) == [5, 1, 4]


def test_a_running_container_is_not_refused_after_a_restart() -> None:
    after = World(capacity=4)
    after.start("ann", 8, 8, assigned={GPU: 8})
    after.engine.adopt(process("ann"), GPU, 6)
    after.engine.check()
    assert after.engine.free_bytes(GPU) == -2


def test_adopting_twice_or_a_stranger_is_a_mistake() -> None:
    world = World(("ann", 5, 5))
    world.engine.adopt(process("ann"), GPU, 2)
    with pytest.raises(ValueError, match="adopted"):
        world.engine.adopt(process("ann"), GPU, 2)
    with pytest.raises(UnknownContainerError):
        world.engine.adopt(process("bob"), GPU, 2)


# Two devices.


def test_who_holds_one_device_is_not_given_what_another_needs_to_finish() -> None:
    other = GpuUuid("GPU-1")
    engine = Engine({GPU: 4, other: 4}, Fifo())
    both = {GPU: Quota(4, 0), other: Quota(4, 0)}
    for name in ("ann", "bob"):
        engine.start_container(ContainerId(name), NAMES.index(name), both)
        engine.start_process(process(name), ContainerId(name))

    def ask(number: int, name: str, gpu: GpuUuid, size: int) -> str:
        request = Request(number, process(name), ContainerId(name), gpu, size, True, False, 0, "")
        decisions = engine.request(request, 0)
        engine.check()
        return describe(decisions[0])

    assert ask(1, "ann", GPU, 1) == "granted"
    assert ask(2, "bob", other, 1) == "suspended", "each would hold what the other needs"
    assert ask(3, "ann", other, 4) == "granted"
    assert [describe(decision) for decision in engine.end_container(ContainerId("ann"), 0)] == ["resumed"]
    assert engine.waiting_gpus() == ()
