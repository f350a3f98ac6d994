# SPDX-License-Identifier: Apache-2.0
"""The safety rule against its definition: try every order, try every amount, after every change."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety import index as safety_index
from convgpu.core.safety import line, order
from convgpu.core.safety.index import SafetyIndex
from convgpu.core.safety.stakes import Stake, Stakes, is_safe, run_to_end

GPUS = tuple(GpuUuid(f"GPU-{number}") for number in range(3))
NAMES = tuple(ContainerId(name) for name in "abcdefg")
CAPACITY = 9
GREEDY = set(NAMES[:3])

small = st.integers(0, 5)
stakes_of_one = st.dictionaries(st.sampled_from(GPUS[:2]), st.builds(Stake, small, small), min_size=1)
all_stakes = st.dictionaries(st.sampled_from(NAMES[:5]), stakes_of_one, max_size=5)
free = st.fixed_dictionaries({gpu: st.integers(-3, 6) for gpu in GPUS[:2]})


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> object:
    """All is cut down, so that few containers fill several blocks, stand out of sight, and regions come and go."""
    patch = pytest.MonkeyPatch()
    patch.setattr(order, "_BLOCK", 2)
    patch.setattr(line, "_SIGHT", 2)
    patch.setattr(safety_index, "_PATIENCE", 3)
    yield
    patch.undo()


def can_all_finish(available: dict[GpuUuid, int], stakes: Stakes, ruled: tuple[GpuUuid, ...] = GPUS) -> bool:
    """The definition: some order in which each reaches its limit with what is there at its turn."""
    for sequence in permutations(stakes):
        left = dict(available)
        for container in sequence:
            if any(stake.missing > max(0, left[gpu]) for gpu, stake in stakes[container].items() if gpu in ruled):
                break
            for gpu, stake in stakes[container].items():
                left[gpu] += stake.assigned
        else:
            return True
    return False


def after(available: dict[GpuUuid, int], stakes: Stakes, container: ContainerId, gpu: GpuUuid, size: int) -> set[str]:
    """Who can finish after so much was given."""
    stake = stakes[container][gpu]
    changed = {**stakes[container], gpu: Stake(stake.assigned + size, stake.missing - size)}
    return set(run_to_end({**available, gpu: available[gpu] - size}, {**stakes, container: changed})[0])


def grantable(available: dict[GpuUuid, int], stakes: Stakes, container: ContainerId, gpu: GpuUuid) -> int:
    """The definition: the most with which all who can finish still can."""
    before = run_to_end(available, stakes)[0]
    most = min(max(0, available[gpu]), stakes[container][gpu].missing)
    good = [size for size in range(most + 1) if before <= after(available, stakes, container, gpu, size)]
    assert good == list(range(len(good))), "what is safe to give is safe to give in part"
    return good[-1]


def only(ruled: set[GpuUuid], available: dict[GpuUuid, int], stakes: Stakes) -> tuple[dict[GpuUuid, int], Stakes]:
    """The same state with the devices under the rule and no others."""
    kept = {name: {gpu: stake for gpu, stake in held.items() if gpu in ruled} for name, held in stakes.items()}
    return {gpu: size for gpu, size in available.items() if gpu in ruled}, kept


def index_of(available: dict[GpuUuid, int], stakes: Stakes) -> SafetyIndex:
    index = SafetyIndex(available, available)
    for container, held in stakes.items():
        index.start(container, {gpu: stake.assigned + stake.missing for gpu, stake in held.items()})
        for gpu, stake in held.items():
            index.assign(container, gpu, stake.assigned, stake.missing)
            index.set_free(gpu, available[gpu])
    return index


@settings(max_examples=400, deadline=None, database=None)
@given(free, all_stakes, st.sampled_from([GPUS[:2], GPUS[:1]]))
def test_safe_means_that_some_order_lets_all_finish(
    available: dict[GpuUuid, int], stakes: Stakes, ruled: tuple[GpuUuid, ...]
) -> None:
    assert is_safe(available, stakes, ruled) == can_all_finish(available, stakes, ruled)


@settings(max_examples=600, deadline=None, database=None)
@given(free, all_stakes)
def test_grantable_is_the_most_that_keeps_everybody_able_to_finish(
    available: dict[GpuUuid, int], stakes: Stakes
) -> None:
    index = index_of(available, stakes)
    for container, held in stakes.items():
        for gpu in held:
            assert index.grantable(container, gpu) == grantable(available, stakes, container, gpu)


class CalmIndexMachine(RuleBasedStateMachine):
    """Containers start, get what they may, give back and end; what is remembered must stay right.

    Some are greedy, as if something of theirs waited: after each event they are given all that they may get, as the
    engine does it. So in most states nobody greedy can be given anything, and there is something to remember.
    """

    @initialize(devices=st.integers(1, 3), containers=st.integers(4, 7), data=st.data())
    def begin(self, devices: int, containers: int, data: st.DataObject) -> None:
        self.gpus = GPUS[:devices]
        self.capacity = dict.fromkeys(self.gpus, CAPACITY)
        self.free = dict(self.capacity)
        self.limits: dict[ContainerId, dict[GpuUuid, int]] = {}
        self.assigned: dict[ContainerId, dict[GpuUuid, int]] = {}
        self.ruled = set(self.gpus)
        self.index = SafetyIndex(self.free, self.ruled)
        for name in NAMES[:containers]:
            self.start(data, name)
            for gpu in self.assigned[name]:
                self.move(name, gpu, self.index.grantable(name, gpu, data.draw(st.integers(0, 4))))

    def stakes(self) -> Stakes:
        return {
            name: {gpu: Stake(size, self.missing(name, gpu)) for gpu, size in held.items()}
            for name, held in self.assigned.items()
        }

    def missing(self, name: ContainerId, gpu: GpuUuid) -> int:
        return max(0, min(self.limits[name][gpu], self.capacity[gpu]) - self.assigned[name][gpu])

    def right(self, name: ContainerId, gpu: GpuUuid) -> int:
        """How much may be given, by the definition."""
        stakes = self.stakes()
        if gpu not in self.ruled:
            return max(0, min(self.free[gpu], stakes[name][gpu].missing))
        return grantable(*only(self.ruled, self.free, stakes), name, gpu)

    def lacking(self, gpu: GpuUuid) -> set[ContainerId]:
        return {name for name, held in self.assigned.items() if gpu in held and self.missing(name, gpu)}

    def wish(self, name: ContainerId, gpu: GpuUuid) -> int:
        """What the greedy want: mostly half of their limits, so that they do not just take all, and could end."""
        return self.limits[name][gpu] // (1 if name == min(GREEDY) else 2)

    def place(self, data: st.DataObject) -> tuple[ContainerId, GpuUuid]:
        name = data.draw(st.sampled_from(sorted(self.assigned)))
        return name, data.draw(st.sampled_from(sorted(self.assigned[name])))

    def move(self, name: ContainerId, gpu: GpuUuid, size: int) -> None:
        self.assigned[name][gpu] += size
        self.free[gpu] -= size
        self.index.assign(name, gpu, size, self.missing(name, gpu))

    def start(self, data: st.DataObject, name: ContainerId) -> None:
        used = sorted(data.draw(st.sets(st.sampled_from(self.gpus), min_size=1)))
        self.limits[name] = {gpu: data.draw(st.integers(1, CAPACITY)) for gpu in used}
        self.assigned[name] = dict.fromkeys(used, 0)
        self.index.start(name, {gpu: self.missing(name, gpu) for gpu in used})

    # What happens.

    @rule(data=st.data(), wanted=st.integers(1, CAPACITY))
    def get(self, data: st.DataObject, wanted: int) -> None:
        name, gpu = self.place(data)
        size = self.index.grantable(name, gpu, wanted)
        assert size == min(wanted, self.right(name, gpu))
        self.move(name, gpu, size)

    @rule(data=st.data())
    def get_all(self, data: st.DataObject) -> None:
        self.get(data, CAPACITY)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        name, gpu = self.place(data)
        self.move(name, gpu, -data.draw(st.integers(0, self.assigned[name][gpu])))

    @rule(data=st.data(), cut=st.integers(0, 4))
    def change_limit(self, data: st.DataObject, cut: int) -> None:
        name, gpu = self.place(data)
        self.limits[name][gpu] = max(1, self.limits[name][gpu] - cut)
        self.index.set_missing(name, gpu, self.missing(name, gpu))

    @rule(data=st.data())
    def end_and_start_another(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.assigned)))
        for gpu, size in self.assigned.pop(name).items():
            self.free[gpu] += size
        self.index.remove(name)
        self.nobody_means_nobody()
        self.start(data, name)

    # What is asked.

    @rule(data=st.data(), wanted=st.sampled_from([None, 1, 2]))
    def ask_how_much(self, data: st.DataObject, wanted: int | None) -> None:
        name, gpu = self.place(data)
        right = self.right(name, gpu)
        assert self.index.grantable(name, gpu, wanted) == (right if wanted is None else min(wanted, right))

    @rule(data=st.data())
    def ask_who(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(self.gpus))
        waiting = self.lacking(gpu)
        assert self.index.receivers(gpu, waiting) == {name for name in waiting if self.right(name, gpu)}

    @rule(data=st.data())
    def ask_what_others_leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.assigned)))
        available, counting = only(self.ruled, self.free, self.stakes())
        others = {other: held for other, held in counting.items() if other != name}
        left = run_to_end(available, others)[1]
        assert self.index.available_without(name) == {gpu: left[gpu] for gpu in counting[name]}

    @invariant()
    def nobody_means_nobody(self) -> None:
        if not hasattr(self, "index"):
            return
        assert self.index.free == self.free
        assert self.index.stakes == self.stakes()
        assert self.index.is_safe() == is_safe(*only(self.ruled, self.free, self.stakes()))
        given = True
        while given:
            given = False
            for gpu in self.gpus:
                waiting = {
                    name for name in self.lacking(gpu) & GREEDY if self.assigned[name][gpu] < self.wish(name, gpu)
                }
                if self.index.gives_nothing(gpu, waiting):
                    assert not any(self.right(name, gpu) for name in waiting)
                    continue
                receivers: set[ContainerId] | None = None
                for name in sorted(waiting):
                    size = self.index.grantable(name, gpu, 2)
                    assert size == min(2, self.right(name, gpu))
                    if size:
                        self.move(name, gpu, size)
                        given = True
                        break
                    if receivers is None:
                        receivers = set(self.index.receivers(gpu, waiting))
                        assert receivers == {other for other in waiting if self.right(other, gpu)}


class WildIndexMachine(CalmIndexMachine):
    """With all that can make a state unsafe, and devices whose rule comes and goes."""

    @rule(data=st.data(), size=st.integers(1, 3))
    def take_by_force(self, data: st.DataObject, size: int) -> None:
        name, gpu = self.place(data)
        if data.draw(st.booleans()):
            self.index.grantable(name, gpu)
        self.move(name, gpu, size)

    @rule(data=st.data(), more=st.integers(1, 4))
    def raise_limit(self, data: st.DataObject, more: int) -> None:
        name, gpu = self.place(data)
        self.limits[name][gpu] += more
        self.index.set_missing(name, gpu, self.missing(name, gpu))

    @rule(data=st.data(), capacity=st.integers(0, CAPACITY))
    def change_capacity(self, data: st.DataObject, capacity: int) -> None:
        gpu = data.draw(st.sampled_from(self.gpus))
        self.free[gpu] += capacity - self.capacity[gpu]
        self.capacity[gpu] = capacity
        self.index.set_free(gpu, self.free[gpu])
        for name, held in self.assigned.items():
            if gpu in held:
                self.index.set_missing(name, gpu, self.missing(name, gpu))

    @rule(data=st.data())
    def change_rule(self, data: st.DataObject) -> None:
        self.ruled = data.draw(st.sets(st.sampled_from(self.gpus)))
        self.index.set_ruled(self.ruled)


MANY = settings(
    max_examples=400, stateful_step_count=50, deadline=None, database=None, phases=(Phase.generate, Phase.shrink)
)
TestCalmIndex = CalmIndexMachine.TestCase
TestCalmIndex.settings = MANY
TestWildIndex = WildIndexMachine.TestCase
TestWildIndex.settings = MANY


@pytest.mark.parametrize("seed", range(12))
def test_a_crowd_is_answered_as_a_few_are(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty containers, half of them greedy, whose answers come from what thousands of changes left remembered."""
    monkeypatch.setattr(order, "_BLOCK", (2, 5, 32)[seed // 4])
    rng = random.Random(seed)
    capacity = 400
    gpus = GPUS[: 1 + seed % 3]
    names = [ContainerId(f"{number:02}") for number in range(40)]
    greedy = set(names[::2])
    index = SafetyIndex(dict.fromkeys(gpus, capacity), gpus)
    limits: dict[ContainerId, dict[GpuUuid, int]] = {}
    checked = 0

    def move(name: ContainerId, gpu: GpuUuid, size: int) -> None:
        index.assign(name, gpu, size, index.stakes[name][gpu].missing - size)

    def wants(name: ContainerId, gpu: GpuUuid) -> bool:
        """The greedy want half of their limits, so that none of them just takes all and could then end."""
        return gpu in limits[name] and index.stakes[name][gpu].assigned < limits[name][gpu] // 2

    def is_right(name: ContainerId, gpu: GpuUuid, size: int, wanted: int) -> bool:
        """All can still finish, and with one more they could not."""
        most = min(index.free[gpu], index.stakes[name][gpu].missing, wanted)
        everybody = index.stakes.keys()
        return after(index.free, index.stakes, name, gpu, size) == everybody and (
            size >= most or after(index.free, index.stakes, name, gpu, size + 1) != everybody
        )

    for _ in range(1500):
        name = rng.choice(names)
        if name not in index.stakes:
            used = rng.sample(gpus, rng.randint(1, len(gpus)))
            limits[name] = {gpu: rng.choice((40, 60, 200, 400)) for gpu in used}
            index.start(name, limits[name])
        elif rng.random() < 0.05:
            index.remove(name)
        else:
            gpu = rng.choice(list(limits[name]))
            wanted = rng.randint(1, 30)
            if rng.random() < 0.5:
                size = index.grantable(name, gpu, wanted)
                assert is_right(name, gpu, size, wanted)
                move(name, gpu, size)
            else:
                move(name, gpu, -min(wanted, index.stakes[name][gpu].assigned))
        assert index.is_safe()
        given = True
        while given:
            given = False
            for gpu in gpus:
                waiting = {name for name in greedy & index.stakes.keys() if wants(name, gpu)}
                if index.gives_nothing(gpu, waiting):
                    for name in rng.sample(sorted(waiting), min(4, len(waiting))):
                        assert index.free[gpu] <= 0 or is_right(name, gpu, 0, 1)
                        checked += index.free[gpu] > 0
                    continue
                receivers = index.receivers(gpu, waiting)
                for name in rng.sample(sorted(waiting), len(waiting)):
                    wanted = rng.randint(1, 30)
                    size = index.grantable(name, gpu, wanted)
                    assert (size > 0) == (name in receivers)
                    if size:
                        assert is_right(name, gpu, size, wanted)
                        move(name, gpu, size)
                        given = True
                        break
    assert is_safe(index.free, index.stakes)
    assert checked > 100, "nobody was ever told that there is nothing, although something was free"
