# SPDX-License-Identifier: Apache-2.0
"""The engine's rules, one by one. tests/property/test_engine_machine.py has what holds for all of them together."""

from __future__ import annotations

from typing import Any

import pytest

from convgpu.core.algorithms import Fifo
from convgpu.core.decision import Decision, Denied, Granted, Numbers, Reason, Suspended
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.ledger import Account
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.errors import QuotaRefusedError, UnknownContainerError

GPU = GpuUuid("GPU-0")
OTHER_GPU = GpuUuid("GPU-1")


class World:
    """An engine with one process per container, unless a test starts more; memory counts in small units."""

    def __init__(self, capacity: int = 10, *, safe: bool = True) -> None:
        self.engine = Engine({GPU: capacity}, Fifo(), safe=safe)
        self.created = 0
        self.asked = 0

    def start(self, name: str, limit: int, guarantee: int | None = None, *, wait_ns: int | None = None) -> None:
        self.created += 1
        quota = Quota(limit, limit if guarantee is None else guarantee)
        self.engine.start_container(ContainerId(name), self.created, {GPU: quota}, wait_ns=wait_ns)
        self.engine.start_process(self.process(name), ContainerId(name))

    def process(self, name: str, number: int = 1) -> ProcessKey:
        return ProcessKey(sum(name.encode()) * 10 + number, 1)

    def ask(self, name: str, size: int, *, now: int = 0, arrived: int | None = None, **more: Any) -> list[Decision]:
        self.asked += 1
        request = Request(
            request_id=self.asked,
            process=self.process(name, more.get("number", 1)),
            container=ContainerId(name),
            gpu=GPU,
            size_bytes=size,
            waitable=more.get("waitable", True),
            forced=False,
            arrived_ns=now if arrived is None else arrived,
            api="cuMemAlloc_v2",
        )
        return self.checked(self.engine.request(request, now))

    def gets(self, name: str, size: int, **more: Any) -> None:
        assert kinds(self.ask(name, size, **more)) == [("granted", name, size)]

    def waits(self, name: str, size: int, **more: Any) -> int:
        assert kinds(self.ask(name, size, **more)) == [("suspended", name, size)]
        return self.asked

    def account(self, name: str, now: int = 0) -> Account:
        return self.engine.account(ContainerId(name), GPU, now)

    def assigned(self, *names: str) -> list[int]:
        return [self.account(name).assigned_bytes for name in names]

    def release(self, name: str, size: int, now: int = 0) -> list[tuple[str, str, int]]:
        return kinds(self.checked(self.engine.release(self.process(name), GPU, size, now)))

    def end(self, name: str, now: int = 0) -> list[tuple[str, str, int]]:
        return kinds(self.checked(self.engine.end_container(ContainerId(name), now)))

    def set_quota(self, name: str, limit: int, guarantee: int | None = None) -> list[tuple[str, str, int]]:
        quota = Quota(limit, limit if guarantee is None else guarantee)
        return kinds(self.checked(self.engine.set_quota(ContainerId(name), GPU, quota, 0)))

    def checked(self, decisions: list[Decision]) -> list[Decision]:
        self.engine.check()
        return decisions


def kinds(decisions: list[Decision]) -> list[tuple[str, str, int]]:
    def kind(decision: Decision) -> str:
        match decision:
            case Granted():
                return "resumed" if decision.resumed else "granted"
            case Denied():
                return str(decision.reason)
            case Suspended():
                return "suspended"

    return [(kind(decision), decision.request.container, decision.request.size_bytes) for decision in decisions]


@pytest.mark.parametrize("size", [0, -1])
def test_a_request_asks_for_something(size: int) -> None:
    world = World()
    world.start("alpha", 5)
    with pytest.raises(ValueError, match="at least 1"):
        world.ask("alpha", size)


# The main story, in units of half a GiB: ten GiB, a context of one unit each.


def test_the_story_of_alpha_beta_and_gamma() -> None:
    world = World(20)
    for name, limit in (("alpha", 10), ("gamma", 2), ("beta", 10)):
        world.start(name, limit)
        world.gets(name, 1)
    assert world.assigned("alpha", "gamma", "beta") == [10, 2, 8], "only eight of beta's ten were left"
    world.gets("alpha", 8)
    assert kinds(world.ask("gamma", 4)) == [("limit", "gamma", 4)]
    world.waits("beta", 8)
    assert world.set_quota("gamma", 6) == []
    world.waits("gamma", 4)
    assert world.end("alpha") == [("resumed", "gamma", 4), ("resumed", "beta", 8)], "gamma was created first"
    assert world.assigned("gamma", "beta") == [6, 10]
    assert world.engine.free_bytes(GPU) == 4


# Start.


def test_a_container_starts_with_its_guarantee_or_what_is_left_of_it() -> None:
    world = World()
    world.start("ann", 4)
    world.start("bob", 8)
    world.start("cyd", 8)
    assert world.assigned("ann", "bob", "cyd") == [4, 6, 0]


def test_a_limit_above_the_device_is_refused_with_both_numbers() -> None:
    world = World(8 * 2**30)
    with pytest.raises(QuotaRefusedError, match="10GiB is more than the 8GiB"):
        world.start("ann", 10 * 2**30)
    assert world.engine.free_bytes(GPU) == 8 * 2**30
    with pytest.raises(UnknownContainerError):
        world.account("ann")


def test_a_guarantee_is_given_only_as_far_as_that_is_safe() -> None:
    world = World()
    world.start("ann", 10, 4)
    world.start("bob", 10, 10)
    assert world.assigned("ann", "bob") == [4, 0], "with any more for bob, neither could reach its limit"


# Requests.


def test_above_the_limit_is_denied_at_once_and_the_numbers_say_why() -> None:
    world = World()
    world.start("ann", 4)
    world.gets("ann", 3)
    (denied,) = world.ask("ann", 2)
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.LIMIT
    assert denied.numbers == Numbers(limit=4, guarantee=4, assigned=4, used=3, free=6, capacity=10, waiting=0)
    assert world.account("ann").denied == 1


def test_what_is_not_assigned_is_taken_from_what_is_free() -> None:
    world = World()
    world.start("ann", 8, 2)
    (granted,) = world.ask("ann", 5)
    assert isinstance(granted, Granted)
    assert granted.numbers == Numbers(limit=8, guarantee=2, assigned=5, used=0, free=5, capacity=10)
    assert world.assigned("ann") == [5]


def test_what_cannot_wait_is_denied_where_it_would_have_to() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 5)
    assert kinds(world.ask("bob", 1, waitable=False)) == [("not_now", "bob", 1)]


def test_a_suspended_request_says_what_it_needs_and_where_it_stands() -> None:
    world = World()
    for name, limit in (("ann", 9), ("bob", 5), ("cyd", 5)):
        world.start(name, limit)
    world.waits("cyd", 2)
    world.waits("cyd", 1)
    (suspended,) = world.ask("bob", 3)
    assert isinstance(suspended, Suspended)
    assert (suspended.need_bytes, suspended.position) == (2, 1), "bob was created before cyd"
    assert [(entry.position, entry.request.container) for entry in world.engine.queue(GPU)] == [
        (1, "bob"),
        (2, "cyd"),
        (3, "cyd"),
    ]


def test_who_is_not_known_is_told_so() -> None:
    world = World()
    world.start("ann", 5)
    assert kinds(world.ask("zoe", 1)) == [("unknown_container", "zoe", 1)]
    assert kinds(world.ask("ann", 1, number=2)) == [("unknown_container", "ann", 1)], "no such process"
    request = Request(99, world.process("ann"), ContainerId("ann"), OTHER_GPU, 1, True, False, 0, "")
    (denied,) = world.engine.request(request, 0)
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.numbers) == (Reason.DEVICE, None)


def test_an_id_names_one_waiting_request() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 5)
    world.waits("bob", 1)
    world.asked -= 1
    with pytest.raises(ValueError, match="waits already"):
        world.ask("bob", 1)


# The order within a container.


def test_a_small_request_passes_a_larger_one_of_its_own_container() -> None:
    world = World()
    world.start("ann", 7)
    world.start("bob", 6)
    world.gets("bob", 1)
    world.waits("bob", 4)
    world.gets("bob", 1)
    assert world.end("ann") == [("resumed", "bob", 4)]


def test_what_waits_counts_against_the_limit_so_that_it_is_not_passed_for_ever() -> None:
    world = World()
    world.start("ann", 7)
    world.start("bob", 6)
    world.waits("bob", 5)
    world.gets("bob", 1)
    (denied,) = world.ask("bob", 1)
    assert isinstance(denied, Denied)
    assert denied.numbers is not None
    assert (denied.reason, denied.numbers.used, denied.numbers.waiting) == (Reason.LIMIT, 1, 5)
    assert world.engine.headroom(ContainerId("bob"), GPU) == 0


def test_within_a_container_requests_resume_in_order_of_arrival() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 9)
    for size, arrived in ((2, 30), (3, 10), (1, 20)):
        world.waits("bob", size, now=40, arrived=arrived)
    assert world.end("ann") == [("resumed", "bob", 3), ("resumed", "bob", 1), ("resumed", "bob", 2)]


# Redistribution.


def test_the_next_is_given_all_up_to_its_guarantee_and_then_the_one_after_it() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 6, 5)
    world.start("cyd", 8, 0)
    world.waits("cyd", 2)
    world.waits("bob", 1)
    assert world.end("ann") == [("resumed", "bob", 1), ("resumed", "cyd", 2)]
    assert world.assigned("bob", "cyd") == [5, 2]


def test_a_part_is_set_aside_for_a_waiter_that_cannot_go_on_yet() -> None:
    world = World()
    world.start("ann", 6)
    world.start("bob", 4)
    world.start("cyd", 9)
    world.waits("cyd", 7)
    assert world.end("bob") == []
    assert world.assigned("cyd") == [4]
    assert world.end("ann") == [("resumed", "cyd", 7)]


def test_a_part_is_not_set_aside_where_it_could_block_others() -> None:
    world = World()
    world.start("ann", 8, 4)
    world.gets("ann", 4)
    world.start("bob", 10, 0)
    world.waits("bob", 7)
    assert world.assigned("ann", "bob") == [4, 2], "four of the free six are what ann may still need"
    world.gets("ann", 4)
    assert world.end("ann") == [("resumed", "bob", 7)]


def test_without_the_safety_rule_it_is_set_aside_and_blocks() -> None:
    world = World(safe=False)
    world.start("ann", 8, 4)
    world.gets("ann", 4)
    world.start("bob", 10, 0)
    world.waits("bob", 7)
    assert world.assigned("ann", "bob") == [4, 6]
    world.waits("ann", 4)
    assert not world.engine.is_safe()


def test_what_is_released_above_the_guarantee_is_free_for_others() -> None:
    world = World()
    world.start("ann", 9, 2)
    world.gets("ann", 9)
    world.start("bob", 3, 0)
    world.waits("bob", 3)
    assert world.engine.surplus(GPU) == ("ann", "bob")
    assert world.release("ann", 1) == []
    assert world.release("ann", 1) == [("resumed", "bob", 3)]
    assert world.assigned("ann", "bob") == [7, 3]


def test_what_is_released_below_the_guarantee_stays_set_aside() -> None:
    world = World()
    world.start("ann", 9)
    world.gets("ann", 9)
    world.start("bob", 4, 0)
    world.waits("bob", 3)
    assert world.release("ann", 5) == []
    assert world.engine.headroom(ContainerId("ann"), GPU) == 5


def test_what_a_container_gives_back_serves_its_own_waiting_request_first() -> None:
    world = World()
    for name, limit, held in (("ann", 4, 2), ("bob", 8, 6), ("cyd", 2, 2)):
        world.start(name, limit, 0)
        world.gets(name, held)
    world.waits("ann", 2)
    world.waits("bob", 2)
    assert world.release("bob", 2) == [("resumed", "bob", 2)]
    assert world.end("cyd") == [("resumed", "ann", 2)]


def test_nobody_gives_back_more_than_it_holds() -> None:
    world = World()
    world.start("ann", 4)
    world.gets("ann", 3)
    for size in (4, 0, -1):
        with pytest.raises(ValueError, match="holds 3 bytes"):
            world.release("ann", size)
    assert world.engine.held(world.process("ann"), GPU) == 3


# Ends and deadlines.


def test_a_process_that_dies_gives_back_all_and_stops_waiting() -> None:
    world = World()
    world.start("ann", 10, 0)
    world.engine.start_process(world.process("ann", 2), ContainerId("ann"))
    world.gets("ann", 6)
    world.gets("ann", 4, number=2)
    world.start("bob", 5, 0)
    world.waits("bob", 5)
    assert kinds(world.engine.end_process(world.process("ann"), ContainerId("ann"), 5)) == [("resumed", "bob", 5)]
    assert kinds(world.engine.end_process(world.process("ann"), ContainerId("ann"), 6)) == [], "seen twice"
    assert kinds(world.engine.end_process(world.process("bob"), ContainerId("bob"), 7)) == []
    assert world.account("ann").used_bytes == 4
    assert world.engine.free_bytes(GPU) == 6


def test_what_waits_in_a_container_that_ends_is_denied() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 5)
    world.waits("bob", 5)
    assert world.end("bob") == [("container_gone", "bob", 5)]
    assert world.end("bob") == []


def test_a_deadline_counts_from_arrival() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 5, wait_ns=100)
    world.waits("bob", 2, now=50, arrived=20)
    world.waits("bob", 1, now=60)
    assert world.engine.next_deadline_ns() == 120
    assert world.engine.expire(119) == []
    (denied,) = world.engine.expire(125)
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.waited_ns, denied.request.size_bytes) == (Reason.WAIT_TIMEOUT, 105, 2)
    assert world.engine.next_deadline_ns() == 160
    assert world.end("ann", 130) == [("resumed", "bob", 1)]
    assert world.engine.next_deadline_ns() is None
    assert kinds(world.ask("bob", 1, now=500, arrived=20)) == [("granted", "bob", 1)], "it did not have to wait"


def test_a_cancelled_request_gives_its_place_to_the_next() -> None:
    world = World()
    world.start("ann", 7)
    world.start("bob", 9, 0)
    world.start("cyd", 3, 0)
    number = world.waits("bob", 8)
    world.waits("cyd", 3)
    assert world.assigned("bob", "cyd") == [3, 0]
    assert kinds(world.engine.cancel(number, 5)) == [("resumed", "cyd", 3)]
    assert world.engine.cancel(number, 6) == []


def test_suspended_time_counts_those_that_still_wait() -> None:
    world = World()
    world.start("ann", 10)
    world.start("bob", 9)
    number = world.waits("bob", 1, now=100)
    world.waits("bob", 2, now=150)
    assert world.account("bob", now=200).suspended_ns == 100 + 50
    world.engine.cancel(number, 210)
    account = world.account("bob", now=250)
    assert (account.suspended_ns, account.waiting, account.waiting_bytes) == (110 + 100, 1, 2)
