# SPDX-License-Identifier: Apache-2.0
"""Every state that a few small programs can reach: with the safety rule, all of them can always still finish.

The programs have one thread each, which asks for memory in any order of devices and sizes, gives back, crashes and
starts again, and ends. It can do nothing while it waits, but crash. A state is *doomed* if not even good will helps:
if from now on nobody gives back or crashes, all ask for nothing but what they lack to their limits, and each ends as
soon as it has reached them, then some never get there, in whatever order they ask. Without the rule there are such
states, under every algorithm; with it there is none. Where the rule holds on one of two devices only, there is none if
what waits on the other one may give up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import factorial

import pytest

from convgpu.core.algorithms import Algorithm, Candidate, Situation, Uniform, known_algorithms, load_algorithm
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request

GPU0, GPU1 = GpuUuid("GPU-0"), GpuUuid("GPU-1")
Limits = dict[str, dict[GpuUuid, tuple[int, int]]]
Event = tuple[str, str, GpuUuid, int]

CROSSED: Limits = {"ann": {GPU0: (1, 0), GPU1: (1, 0)}, "bob": {GPU0: (1, 0), GPU1: (1, 0)}}
THREE_ON_TWO_DEVICES: Limits = {
    "ann": {GPU0: (2, 0), GPU1: (1, 0)},
    "bob": {GPU0: (1, 0), GPU1: (2, 1)},
    "cyd": {GPU0: (2, 1), GPU1: (2, 0)},
}
THREE_ON_ONE_DEVICE: Limits = {"ann": {GPU0: (4, 0)}, "bob": {GPU0: (3, 1)}, "cyd": {GPU0: (2, 0)}}


class AnyDraw(Algorithm):
    """Stands for `random`, with every seed: the order of each turn of a device is whatever the test says.

    Attributes:
        script: The order of each turn that comes up, as a number; 0 beyond its end.
        asked: How many orders there were to choose from, each time.
    """

    name = Uniform.name

    def __init__(self, script: Sequence[int] = ()) -> None:
        self.script = script
        self.asked: list[int] = []
        self._drawn: dict[tuple[GpuUuid, int, tuple[ContainerId, ...]], int] = {}

    def begin(self, script: Sequence[int]) -> None:
        """Choose like this from now on."""
        self.script, self.asked, self._drawn = script, [], {}

    def order(self, line: Sequence[Candidate], situation: Situation) -> Iterable[Candidate]:
        turn = (situation.gpu, situation.turn, tuple(candidate.container for candidate in line))
        if turn not in self._drawn:
            at = len(self.asked)
            self.asked.append(factorial(len(line)))
            self._drawn[turn] = self.script[at] if at < len(self.script) else 0
        return list(permutations(line))[self._drawn[turn]]


@dataclass(frozen=True)
class Grouping:
    """Groups with a limit on devices, and who is in which."""

    limits: dict[GroupName, dict[GpuUuid, int]] = field(default_factory=dict)
    members: dict[str, GroupName] = field(default_factory=dict)


class World:
    """The engine after some events, and what can happen next."""

    def __init__(
        self,
        limits: Limits,
        capacity: int,
        algorithm: str,
        *,
        safe: bool | set[GpuUuid],
        grouping: Grouping = Grouping(),
    ) -> None:
        self.limits = limits
        self.ruled = safe if isinstance(safe, set) else {GPU0, GPU1}
        self.algorithm = AnyDraw() if algorithm == AnyDraw.name else load_algorithm(algorithm)
        gpus = sorted({gpu for of_container in limits.values() for gpu in of_container})
        self.engine = Engine(
            dict.fromkeys(gpus, capacity), self.algorithm, safe=safe, max_bypass=0, groups=grouping.limits
        )
        self.processes: dict[str, ProcessKey] = {}
        self.now_ns = 0
        for name, quotas in limits.items():
            self.now_ns += 1
            wanted = {gpu: Quota(*of) for gpu, of in quotas.items()}
            self.engine.start_container(
                ContainerId(name), self.now_ns, wanted, priority=self.now_ns, group=grouping.members.get(name)
            )
            self.start_process(name)

    def start_process(self, name: str) -> None:
        self.now_ns += 1
        self.processes[name] = ProcessKey(self.now_ns, 1)
        self.engine.start_process(self.processes[name], ContainerId(name))

    def waiting(self) -> set[str]:
        return {entry.request.container for gpu in self.engine.gpus for entry in self.engine.queue(gpu)}

    def used(self, name: str, gpu: GpuUuid) -> int:
        return self.engine.account(ContainerId(name), gpu, 0).used_bytes

    def key(self) -> object:
        """All that the future depends on."""
        accounts = tuple(
            (name, gpu, (account := self.engine.account(ContainerId(name), gpu, 0)).assigned_bytes, account.used_bytes)
            for name in sorted(self.processes)
            for gpu in self.limits[name]
        )
        waiting = [entry.request for gpu in self.engine.gpus for entry in self.engine.queue(gpu)]
        waiting.sort(key=lambda request: request.arrived_ns)
        return accounts, tuple((request.container, request.gpu, request.size_bytes) for request in waiting)

    def possible(self) -> Iterator[tuple[Event, bool]]:
        """What can happen next; True: also if from now on all only strive for their limits, and end there."""
        waiting = {str(entry.request.container): gpu for gpu in self.engine.gpus for entry in self.engine.queue(gpu)}
        for name in sorted(self.processes):
            limits = {gpu: limit for gpu, (limit, _) in self.limits[name].items()}
            used = {gpu: self.used(name, gpu) for gpu in limits}
            yield ("crash", name, GPU0, 0), False
            if name in waiting and waiting[name] not in self.ruled:
                yield ("give up", name, waiting[name], 0), True
            if name not in waiting:
                reached = all(used[gpu] == limit for gpu, limit in limits.items() if gpu in self.ruled)
                yield ("end", name, GPU0, 0), reached
                for gpu, limit in limits.items():
                    for size in range(1, limit - used[gpu] + 1):
                        yield ("ask", name, gpu, size), gpu in self.ruled
                    for size in range(1, used[gpu] + 1):
                        yield ("give back", name, gpu, size), False

    def apply(self, event: Event, script: Sequence[int]) -> list[int]:
        """Let something happen; return how many orders there were to choose from, each time that it was left open."""
        what, name, gpu, size = event
        if isinstance(self.algorithm, AnyDraw):
            self.algorithm.begin(script)
        self.now_ns += 1
        if what == "ask":
            process = self.processes[name]
            request = Request(self.now_ns, process, ContainerId(name), gpu, size, True, False, self.now_ns, "")
            self.engine.request(request, self.now_ns)
        elif what == "give back":
            self.engine.release(self.processes[name], gpu, size, self.now_ns)
        elif what == "give up":
            waiting = [entry.request for entry in self.engine.queue(gpu) if entry.request.container == name]
            self.engine.cancel(waiting[0].request_id, self.now_ns)
        elif what == "crash":
            self.engine.end_process(self.processes[name], ContainerId(name), self.now_ns)
            self.start_process(name)
        else:
            del self.processes[name]
            self.engine.end_container(ContainerId(name), self.now_ns)
        return self.algorithm.asked if isinstance(self.algorithm, AnyDraw) else []


@dataclass
class Graph:
    """All states that can be reached from a world's beginning.

    Attributes:
        striving: For each state, those that come before it where all only strive for their limits.
        ends: States in which everybody has ended.
        deadlocks: States in which everybody waits.
    """

    striving: dict[object, list[object]] = field(default_factory=dict)
    ends: list[object] = field(default_factory=list)
    deadlocks: int = 0

    @property
    def states(self) -> int:
        return len(self.striving)

    def doomed(self) -> int:
        """How many states there are from which not everybody can get to its end."""
        todo = list(self.ends)
        good = set(todo)
        while todo:
            for before in self.striving[todo.pop()]:
                if before not in good:
                    good.add(before)
                    todo.append(before)
        return self.states - len(good)


def explore(
    limits: Limits,
    capacity: int,
    algorithm: str,
    *,
    safe: bool | set[GpuUuid],
    to_deadlock: bool = False,
    grouping: Grouping = Grouping(),
) -> Graph:
    """Visit all reachable states, breadth first; a state is made again from the events that led to it.

    Args:
        limits: Limit and guarantee of each container on each device.
        capacity: Of each device.
        algorithm: Its name.
        safe: The devices under the rule; True: all.
        to_deadlock: Stop when everybody waits.
        grouping: Their groups.
    """

    def after(path: Sequence[tuple[Event, Sequence[int]]]) -> tuple[World, list[int]]:
        world, asked = World(limits, capacity, algorithm, safe=safe, grouping=grouping), []
        for event, script in path:
            asked = world.apply(event, script)
        return world, asked

    graph = Graph()
    start = after([])[0]
    graph.striving[start.key()] = []
    todo: deque[tuple[object, list[tuple[Event, Sequence[int]]]]] = deque([(start.key(), [])])
    while todo:
        key, path = todo.popleft()
        world = after(path)[0]
        world.engine.check()
        if not world.processes:
            graph.ends.append(key)
        graph.deadlocks += bool(world.processes) and world.waiting() == world.processes.keys()
        if graph.deadlocks and to_deadlock:
            break
        for event, strives in world.possible():
            scripts: list[tuple[int, ...]] = [()]
            while scripts:
                script = scripts.pop()
                next_path = [*path, (event, script)]
                successor, asked = after(next_path)
                chosen = (*script, *[0] * (len(asked) - len(script)))
                for at in range(len(script), len(asked)):
                    scripts += [(*chosen[:at], other) for other in range(1, asked[at])]
                next_key = successor.key()
                if next_key not in graph.striving:
                    graph.striving[next_key] = []
                    todo.append((next_key, next_path))
                if strives:
                    graph.striving[next_key].append(key)
    return graph


FOUR_ON_TWO_DEVICES: Limits = {
    "ann": {GPU0: (2, 0), GPU1: (1, 0)},
    "bob": {GPU0: (1, 0), GPU1: (2, 1)},
    "cyd": {GPU0: (2, 1)},
    "dan": {GPU1: (2, 0)},
}
WORLDS = [
    pytest.param(CROSSED, 1, 28, id="two containers, two devices"),
    pytest.param(THREE_ON_TWO_DEVICES, 2, 458, id="three containers, two devices"),
    pytest.param(THREE_ON_ONE_DEVICE, 4, 320, id="three containers, one device"),
]


@pytest.mark.parametrize("algorithm", known_algorithms())
@pytest.mark.parametrize(("limits", "capacity", "states"), WORLDS)
def test_with_the_rule_everybody_can_always_finish(algorithm: str, limits: Limits, capacity: int, states: int) -> None:
    graph = explore(limits, capacity, algorithm, safe=True)
    assert graph.states >= states, "fewer states than there were: something does not happen any more"
    assert len(graph.ends) == 1
    assert graph.deadlocks == 0
    assert graph.doomed() == 0


@pytest.mark.parametrize("algorithm", known_algorithms())
@pytest.mark.parametrize(("limits", "capacity", "states"), WORLDS)
def test_without_the_rule_a_deadlock_is_reachable(algorithm: str, limits: Limits, capacity: int, states: int) -> None:
    del states
    assert explore(limits, capacity, algorithm, safe=False, to_deadlock=True).deadlocks == 1


LAB, TEAM = GroupName("lab"), GroupName("lab/team")
GROUPED_WORLDS = [
    pytest.param(
        CROSSED,
        2,
        Grouping({LAB: {GPU0: 1, GPU1: 1}}, {"ann": LAB, "bob": LAB}),
        28,
        id="room for both on both devices, but not in their group",
    ),
    pytest.param(
        THREE_ON_ONE_DEVICE,
        9,
        Grouping({LAB: {GPU0: 4}}, dict.fromkeys(("ann", "bob", "cyd"), LAB)),
        320,
        id="room for all on the device, but not in their group",
    ),
    pytest.param(
        {"ann": {GPU0: (3, 0)}, "bob": {GPU0: (2, 0)}, "cyd": {GPU0: (2, 0)}},
        4,
        Grouping({LAB: {GPU0: 3}, TEAM: {GPU0: 2}}, {"ann": LAB, "bob": TEAM, "cyd": TEAM}),
        80,
        id="a group in a group",
    ),
    pytest.param(
        {"ann": {GPU0: (2, 0), GPU1: (1, 0)}, "bob": {GPU0: (1, 0), GPU1: (2, 0)}, "cyd": {GPU1: (1, 0)}},
        2,
        Grouping({LAB: {GPU0: 2}}, {"ann": LAB, "bob": LAB}),
        100,
        id="the group is full on one device, the other device itself",
    ),
]


@pytest.mark.parametrize("algorithm", known_algorithms())
@pytest.mark.parametrize(("limits", "capacity", "grouping", "states"), GROUPED_WORLDS)
def test_with_the_rule_everybody_in_a_group_can_always_finish(
    algorithm: str, limits: Limits, capacity: int, grouping: Grouping, states: int
) -> None:
    graph = explore(limits, capacity, algorithm, safe=True, grouping=grouping)
    assert graph.states >= states, "fewer states than there were: something does not happen any more"
    assert len(graph.ends) == 1
    assert graph.deadlocks == 0
    assert graph.doomed() == 0


@pytest.mark.parametrize("algorithm", known_algorithms())
@pytest.mark.parametrize(("limits", "capacity", "grouping", "states"), GROUPED_WORLDS)
def test_without_the_rule_a_group_deadlocks(
    algorithm: str, limits: Limits, capacity: int, grouping: Grouping, states: int
) -> None:
    del states
    assert explore(limits, capacity, algorithm, safe=False, to_deadlock=True, grouping=grouping).deadlocks == 1


@pytest.mark.parametrize(("limits", "capacity", "grouping", "states"), GROUPED_WORLDS[:2])
def test_it_is_the_group_that_deadlocks(limits: Limits, capacity: int, grouping: Grouping, states: int) -> None:
    """The same containers on the same devices, without their group, never come to wait for each other."""
    del grouping, states
    assert explore(limits, capacity, "fifo", safe=False).deadlocks == 0


def test_the_classic_trap() -> None:
    """Each holds one device and wants the other: the second to reach out has to wait before it holds anything."""
    for safe, waiting in ((False, set()), (True, {"bob"})):
        world = World(CROSSED, 1, "fifo", safe=safe)
        world.apply(("ask", "ann", GPU0, 1), ())
        world.apply(("ask", "bob", GPU1, 1), ())
        assert world.waiting() == waiting
        world.apply(("ask", "ann", GPU1, 1), ())
        assert world.waiting() == ({"bob"} if safe else {"ann"})


def test_with_the_rule_everybody_can_always_finish_whoever_is_next() -> None:
    """Four containers, and every order that any algorithm could choose at any time."""
    graph = explore(FOUR_ON_TWO_DEVICES, 2, AnyDraw.name, safe=True)
    assert graph.states > 1000
    assert graph.deadlocks == 0
    assert graph.doomed() == 0


@pytest.mark.parametrize(("limits", "capacity", "states"), WORLDS[:2])
def test_a_device_under_the_rule_stays_free_of_deadlocks_beside_one_without(
    limits: Limits, capacity: int, states: int
) -> None:
    graph = explore(limits, capacity, AnyDraw.name, safe={GPU1})
    assert graph.states > states, "without the rule more states can be reached"
    assert graph.deadlocks > 0
    assert graph.doomed() == 0, "once what waits for the other device has given up, everybody can finish"


def test_states_are_doomed_before_everybody_waits() -> None:
    """What the word means here: it is found where it is known to be."""
    graph = explore(CROSSED, 1, "fifo", safe=False)
    assert 0 < graph.deadlocks < graph.doomed()


def test_every_order_is_drawn() -> None:
    """The stand-in for `random` would prove nothing if it always chose the same."""
    line = [Candidate(ContainerId(name), 1, 0, 1, 0, 1, 0) for name in "abc"]
    drawn = set()
    for number in range(6):
        draws = AnyDraw([number])
        drawn.add(tuple(candidate.container for candidate in draws.order(line, Situation(GPU0, 1))))
    assert len(drawn) == 6
    uniform = {
        tuple(candidate.container for candidate in Uniform().order(line, Situation(GPU0, 1, turn)))
        for turn in range(200)
    }
    assert uniform == drawn
