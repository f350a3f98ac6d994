# SPDX-License-Identifier: Apache-2.0
"""The safety index with groups, against the criterion itself: every group on every device as one more device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from convgpu.core.groups import path_of
from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.safety import joint
from convgpu.core.safety.nested import NestedIndex
from convgpu.core.safety.stakes import Stake, run_to_end

CAPACITY = 8
GPUS = tuple(GpuUuid(f"GPU-{number}") for number in range(3))
NAMES = tuple(ContainerId(f"c{number}") for number in range(7))
GROUPS = (GroupName("lab"), GroupName("lab/team"), GroupName("other"))
GREEDY = set(NAMES[::2])


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks of two, so that a few containers are many blocks."""
    patch = pytest.MonkeyPatch()
    patch.setattr(joint, "_BLOCK", 2)
    patch.setattr(joint, "_WINDOW", 5)
    patch.setattr(joint, "_FEW", 1)
    yield
    patch.undo()


class World:
    """What there is, in plain figures, and the index that must agree with it."""

    def __init__(self, gpus: tuple[GpuUuid, ...], capacity: int = CAPACITY) -> None:
        self.gpus = gpus
        self.capacity = dict.fromkeys(gpus, capacity)
        self.group_limits: dict[GroupName, dict[GpuUuid, int]] = {}
        self.limits: dict[ContainerId, dict[GpuUuid, int]] = {}
        self.assigned: dict[ContainerId, dict[GpuUuid, int]] = {}
        self.paths: dict[ContainerId, tuple[GroupName, ...]] = {}
        self.ruled = set(gpus)
        self.index = NestedIndex(self.capacity, gpus)

    def bounds(self, name: ContainerId, gpu: GpuUuid) -> list[int]:
        groups = [self.group_limits[group] for group in self.paths[name] if group in self.group_limits]
        return [self.capacity[gpu], *(limits[gpu] for limits in groups if gpu in limits)]

    def missing(self, name: ContainerId, gpu: GpuUuid) -> int:
        return max(0, min(self.limits[name][gpu], *self.bounds(name, gpu), 10**9) - self.assigned[name][gpu])

    def columns(self) -> tuple[dict[GpuUuid, int], dict[ContainerId, dict[GpuUuid, Stake]], set[GpuUuid]]:
        """Free, stakes and the columns under the rule: devices, and groups on devices."""
        free: dict[GpuUuid, int] = dict(self.capacity)
        ruled = set(self.ruled)
        for group, limits in self.group_limits.items():
            for gpu, size in limits.items():
                free[GpuUuid(f"{group} on {gpu}")] = size
                if gpu in self.ruled:
                    ruled.add(GpuUuid(f"{group} on {gpu}"))
        stakes: dict[ContainerId, dict[GpuUuid, Stake]] = {}
        for name, held in self.assigned.items():
            stakes[name] = {}
            for gpu, size in held.items():
                for column in self.columns_of(name, gpu):
                    stakes[name][column] = Stake(size, self.missing(name, gpu))
                    free[column] -= size
        return free, stakes, ruled

    def columns_of(self, name: ContainerId, gpu: GpuUuid) -> list[GpuUuid]:
        groups = [group for group in self.paths[name] if gpu in self.group_limits.get(group, {})]
        return [gpu, *(GpuUuid(f"{group} on {gpu}") for group in groups)]

    def right(self, name: ContainerId, gpu: GpuUuid, wanted: int) -> int:
        """How much may be given, by the definition: the most with which all who can finish still can."""
        free, stakes, ruled = self.columns()
        own = self.columns_of(name, gpu)
        most = min(wanted, self.missing(name, gpu), *(free[column] for column in own))
        if most <= 0:
            return 0
        before = run_to_end(free, stakes, ruled)[0]
        for size in range(most, 0, -1):
            held = dict(stakes[name])
            for column in own:
                held[column] = Stake(held[column].assigned + size, held[column].missing - size)
            left = {**free, **{column: free[column] - size for column in own}}
            if before <= run_to_end(left, {**stakes, name: held}, ruled)[0]:
                return size
        return 0

    def start(self, name: ContainerId, limits: dict[GpuUuid, int], group: GroupName | None) -> None:
        self.limits[name] = limits
        self.assigned[name] = dict.fromkeys(limits, 0)
        self.paths[name] = path_of(group)
        self.index.start(name, {gpu: self.missing(name, gpu) for gpu in limits}, self.paths[name])

    def end(self, name: ContainerId) -> None:
        self.index.remove(name)
        del self.limits[name], self.assigned[name], self.paths[name]

    def move(self, name: ContainerId, gpu: GpuUuid, size: int) -> None:
        self.assigned[name][gpu] += size
        self.index.assign(name, gpu, size, self.missing(name, gpu))

    def note_missing(self) -> None:
        for name, held in self.assigned.items():
            for gpu in held:
                self.index.set_missing(name, gpu, self.missing(name, gpu))

    def set_group(self, group: GroupName, limits: dict[GpuUuid, int]) -> None:
        self.group_limits[group] = limits
        if not limits:
            del self.group_limits[group]
        self.index.set_group(group, limits)
        self.note_missing()


class CalmGroups(RuleBasedStateMachine):
    """Containers in groups start, get what they may, give back and end; group limits come and are lowered."""

    @initialize(devices=st.integers(1, 3), containers=st.integers(4, 7), spans=st.booleans(), data=st.data())
    def begin(self, devices: int, containers: int, spans: bool, data: st.DataObject) -> None:
        self.spans = spans
        self.world = World(GPUS[:devices])
        for group in GROUPS:
            if data.draw(st.booleans()):
                self.draw_group(data, group)
        for name in NAMES[:containers]:
            self.draw_start(data, name)
            for gpu in self.world.assigned[name]:
                self.world.move(name, gpu, self.world.index.grantable(name, gpu, data.draw(st.integers(0, 4))))

    def draw_group(self, data: st.DataObject, group: GroupName) -> None:
        gpus = data.draw(st.sets(st.sampled_from(self.world.gpus)))
        self.world.set_group(group, {gpu: data.draw(st.integers(1, CAPACITY)) for gpu in sorted(gpus)})

    def draw_start(self, data: st.DataObject, name: ContainerId) -> None:
        most = len(self.world.gpus) if self.spans else 1
        gpus = data.draw(st.sets(st.sampled_from(self.world.gpus), min_size=1, max_size=most))
        limits = {gpu: data.draw(st.integers(1, CAPACITY)) for gpu in sorted(gpus)}
        self.world.start(name, limits, data.draw(st.sampled_from([None, *GROUPS])))

    def place(self, data: st.DataObject) -> tuple[ContainerId, GpuUuid]:
        name = data.draw(st.sampled_from(sorted(self.world.assigned)))
        return name, data.draw(st.sampled_from(sorted(self.world.assigned[name])))

    @rule(data=st.data(), wanted=st.integers(1, CAPACITY))
    def get(self, data: st.DataObject, wanted: int) -> None:
        name, gpu = self.place(data)
        size = self.world.index.grantable(name, gpu, wanted)
        assert size == self.world.right(name, gpu, wanted)
        self.world.move(name, gpu, size)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        name, gpu = self.place(data)
        self.world.move(name, gpu, -data.draw(st.integers(0, self.world.assigned[name][gpu])))

    @rule(data=st.data(), cut=st.integers(0, 4))
    def lower_limit(self, data: st.DataObject, cut: int) -> None:
        name, gpu = self.place(data)
        self.world.limits[name][gpu] = max(1, self.world.limits[name][gpu] - cut)
        self.world.note_missing()

    @rule(data=st.data())
    def end_and_start_another(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.assigned)))
        self.world.end(name)
        self.draw_start(data, name)

    @rule(data=st.data())
    def ask_what_others_leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.assigned)))
        free, stakes, ruled = self.world.columns()
        left = run_to_end(free, {other: held for other, held in stakes.items() if other != name}, ruled)[1]
        available = self.world.index.available_without(name)
        for gpu in self.world.assigned[name]:
            if gpu in ruled:
                assert available[gpu] == min(left[column] for column in self.world.columns_of(name, gpu))

    @rule(data=st.data(), wanted=st.integers(1, 4))
    def ask_whether_a_group_shuts_it_in(self, data: st.DataObject, wanted: int) -> None:
        name, gpu = self.place(data)
        free = self.world.columns()[0]
        columns = self.world.columns_of(name, gpu)[1:]
        group = self.world.index.shut_in(name, gpu, wanted)
        if group is None:
            assert all(max(0, free[column]) >= min(wanted, self.world.missing(name, gpu)) for column in columns)
        else:
            assert (
                self.world.right(name, gpu, wanted) < min(wanted, self.world.missing(name, gpu)) or not self.is_safe()
            )

    def is_safe(self) -> bool:
        free, stakes, ruled = self.world.columns()
        return len(run_to_end(free, stakes, ruled)[0]) == len(stakes)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        assert world.index.is_safe() == self.is_safe()
        mine, index = world.columns(), world.index.columns()
        assert sorted(mine[0].values()) == sorted(index[0].values())
        assert {name: sorted(held.values()) for name, held in mine[1].items()} == {
            name: sorted(held.values()) for name, held in index[1].items()
        }

    @invariant()
    def nobody_means_nobody(self) -> None:
        if not hasattr(self, "world"):
            return
        world, given = self.world, True
        while given:
            given = False
            for gpu in world.gpus:
                waiting = {name for name in GREEDY & world.assigned.keys() if self.wants(name, gpu)}
                if world.index.gives_nothing(gpu, waiting):
                    assert not any(world.right(name, gpu, 1) for name in waiting)
                    continue
                receivers: set[ContainerId] | None = None
                for name in sorted(waiting):
                    size = world.index.grantable(name, gpu, 2)
                    assert size == world.right(name, gpu, 2)
                    if size:
                        world.move(name, gpu, size)
                        given = True
                        break
                    if receivers is None:
                        receivers = set(world.index.receivers(gpu, waiting))
                        assert receivers >= {other for other in waiting if world.right(other, gpu, 1)}

    def wants(self, name: ContainerId, gpu: GpuUuid) -> bool:
        held = self.world.assigned[name]
        return gpu in held and held[gpu] < self.world.limits[name][gpu] // 2 and self.world.missing(name, gpu) > 0


class WildGroups(CalmGroups):
    """With all that can make a state unsafe."""

    @rule(data=st.data(), size=st.integers(1, 3))
    def take_by_force(self, data: st.DataObject, size: int) -> None:
        name, gpu = self.place(data)
        if data.draw(st.booleans()):
            self.world.index.grantable(name, gpu)
        self.world.move(name, gpu, size)

    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def change_group(self, data: st.DataObject, group: GroupName) -> None:
        self.draw_group(data, group)

    @rule(data=st.data(), capacity=st.integers(0, CAPACITY))
    def change_capacity(self, data: st.DataObject, capacity: int) -> None:
        gpu = data.draw(st.sampled_from(self.world.gpus))
        self.world.index.set_free(gpu, self.world.index.free[gpu] + capacity - self.world.capacity[gpu])
        self.world.capacity[gpu] = capacity
        self.world.note_missing()

    @rule(data=st.data())
    def change_rule(self, data: st.DataObject) -> None:
        self.world.ruled = data.draw(st.sets(st.sampled_from(self.world.gpus)))
        self.world.index.set_ruled(self.world.ruled)


MANY = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],  # drawing takes longer than the engine on a busy machine
)
TestCalmGroups = CalmGroups.TestCase
TestCalmGroups.settings = MANY
TestWildGroups = WildGroups.TestCase
TestWildGroups.settings = MANY
