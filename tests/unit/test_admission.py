# SPDX-License-Identifier: Apache-2.0
"""`--admit=wait`: a start that waits until the whole guarantee is there."""

from __future__ import annotations

from convgpu.core.algorithms import Fifo
from convgpu.core.decision import Admitted, Decision, Granted, NotAdmitted, Reason
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request

GPU = GpuUuid("GPU-0")
OTHER = GpuUuid("GPU-1")


class World:
    """Two devices of ten; containers get their limit as guarantee."""

    def __init__(self, *, max_bypass: int = 64) -> None:
        self.engine = Engine({GPU: 10, OTHER: 10}, Fifo(), max_bypass=max_bypass)
        self.created = 0

    def start(self, name: str, *sizes: int, queued_ns: int | None = None, **more: int | None) -> list[Decision]:
        self.created += 1
        quotas = {gpu: Quota(size, size) for gpu, size in zip((GPU, OTHER), sizes, strict=False) if size}
        identity = ContainerId(name)
        return self.checked(
            self.engine.start_container(
                identity, self.created, quotas, queued_ns=queued_ns, now_ns=queued_ns or 0, wait_ns=more.get("wait_ns")
            )
        )

    def end(self, name: str, now_ns: int) -> list[Decision]:
        return self.checked(self.engine.end_container(ContainerId(name), now_ns))

    def assigned(self, name: str) -> list[int]:
        gpus = [gpu for gpu in (GPU, OTHER) if gpu in self.engine.quotas(ContainerId(name))]
        return [self.engine.account(ContainerId(name), gpu, 0).assigned_bytes for gpu in gpus]

    def checked(self, decisions: list[Decision]) -> list[Decision]:
        self.engine.check()
        return decisions


def test_one_that_finds_its_guarantee_starts_at_once() -> None:
    world = World()
    assert world.start("ann", 6, queued_ns=5) == [Admitted(ContainerId("ann"), 0)]
    assert world.assigned("ann") == [6]


def test_one_that_does_not_holds_nothing_until_it_can_have_all() -> None:
    world = World()
    world.start("ann", 6)
    assert world.start("bob", 6, queued_ns=5) == []
    assert world.assigned("bob") == [0], "what is free stays free for others"
    assert world.end("ann", 25) == [Admitted(ContainerId("bob"), 20)]
    assert world.assigned("bob") == [6]


def test_all_devices_or_none() -> None:
    world = World()
    world.start("ann", 0, 6)
    assert world.start("bob", 6, 6, queued_ns=5) == []
    assert world.assigned("bob") == [0, 0]
    assert world.end("ann", 6) == [Admitted(ContainerId("bob"), 1)]
    assert world.assigned("bob") == [6, 6]


def test_smaller_ones_go_past_until_one_is_overdue() -> None:
    world = World(max_bypass=2)
    world.start("ann", 6)
    world.start("big", 10, queued_ns=1)
    assert world.start("one", 2, queued_ns=2) == [Admitted(ContainerId("one"), 0)]
    assert world.start("two", 2, queued_ns=3) == [Admitted(ContainerId("two"), 0)]
    world.end("one", 4)
    assert world.start("three", 2, queued_ns=5) == [], "big has been passed over twice"
    world.end("two", 6)
    assert world.end("ann", 7) == [Admitted(ContainerId("big"), 6)]
    assert world.end("big", 9) == [Admitted(ContainerId("three"), 4)]


def test_a_start_is_given_up_when_its_time_is_over() -> None:
    world = World()
    world.start("ann", 6)
    world.start("bob", 6, queued_ns=5, wait_ns=10)
    assert world.engine.next_deadline_ns() == 15
    assert world.engine.expire(14) == []
    assert world.engine.expire(15) == [NotAdmitted(ContainerId("bob"), Reason.WAIT_TIMEOUT, 10)]
    assert world.engine.next_deadline_ns() is None
    world.start("bob", 4)
    assert world.assigned("bob") == [4], "the same container may start again"


def test_a_container_that_is_removed_while_its_start_waits_is_gone() -> None:
    world = World()
    world.start("ann", 6)
    world.start("bob", 6, queued_ns=5)
    assert world.end("bob", 8) == [NotAdmitted(ContainerId("bob"), Reason.CONTAINER_GONE, 3)]


def test_a_lowered_guarantee_may_let_it_start() -> None:
    world = World()
    world.start("ann", 6)
    world.start("bob", 6, queued_ns=5)
    assert world.engine.set_quota(ContainerId("bob"), GPU, Quota(6, 3), 9) == [Admitted(ContainerId("bob"), 4)]
    assert world.assigned("bob") == [3]


def test_those_that_hold_memory_go_on_while_a_start_waits() -> None:
    world = World()
    world.engine.start_container(ContainerId("ann"), 1, {GPU: Quota(8, 2)})
    process = ProcessKey(1, 1)
    world.engine.start_process(process, ContainerId("ann"))
    world.start("bob", 9, queued_ns=5)
    request = Request(1, process, ContainerId("ann"), GPU, 8, True, False, 6, "")
    assert isinstance(world.checked(world.engine.request(request, 6))[0], Granted)
