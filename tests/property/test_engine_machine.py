# SPDX-License-Identifier: Apache-2.0
"""The engine under arbitrary events: its invariants, against a model that only adds up what the decisions say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from convgpu.core.algorithms import OWN_ALGORITHMS
from convgpu.core.decision import Admitted, Decision, Denied, Granted, NotAdmitted, Reason, Suspended
from convgpu.core.engine import Engine
from convgpu.core.groups import path_of
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.errors import QuotaRefusedError

PHASES = (Phase.generate, Phase.shrink)
CAPACITY = 8
NAMES = [ContainerId(name) for name in ("ann", "bob", "cyd", "dan")]
GPUS = [GpuUuid("GPU-0"), GpuUuid("GPU-1")]
GROUPS = [GroupName("lab"), GroupName("lab/team")]

quotas = st.integers(1, CAPACITY).flatmap(
    lambda limit: st.builds(Quota, st.just(limit), st.sampled_from(sorted({0, limit // 2, limit})))
)


class CalmMachine(RuleBasedStateMachine):
    """Only events that the engine controls: the state must be safe after every one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 1_000
        self.next_id = 0
        self.events: list[Callable[[Engine], Any]] = []
        self.answers: list[Any] = []
        self.quotas: dict[ContainerId, dict[GpuUuid, Quota]] = {}
        self.processes: dict[ContainerId, list[ProcessKey]] = {}
        self.held: dict[tuple[ProcessKey, GpuUuid], int] = {}
        self.waiting: dict[int, Request] = {}
        self.asked: dict[int, Request] = {}
        self.wait_ns: dict[ContainerId, int | None] = {}
        self.to_start: set[ContainerId] = set()
        self.groups: dict[ContainerId, GroupName | None] = {}
        self.group_limits: dict[GroupName, dict[GpuUuid, int]] = {}

    @initialize(
        devices=st.sampled_from([1, 2]),
        algorithm=st.sampled_from(sorted(OWN_ALGORITHMS)),
        max_bypass=st.sampled_from([0, 1, 2, 64]),
        data=st.data(),
    )
    def make_engine(self, devices: int, algorithm: str, max_bypass: int, data: st.DataObject) -> None:
        """Begin with some containers that could fill the devices more than once."""
        self.gpus = GPUS[:devices]
        self.algorithm = algorithm
        self.max_bypass = max_bypass
        self.first_limits = {
            group: {gpu: data.draw(st.integers(2, CAPACITY)) for gpu in self.gpus if data.draw(st.booleans())}
            for group in GROUPS
        }
        self.group_limits = {group: limits for group, limits in self.first_limits.items() if limits}
        self.engine = self.new_engine()
        for name in NAMES[:3]:
            wanted = data.draw(st.fixed_dictionaries(dict.fromkeys(self.gpus, quotas)))
            self.start(name, wanted, None, group=data.draw(st.sampled_from([None, *GROUPS])))

    def new_engine(self) -> Engine:
        algorithm = OWN_ALGORITHMS[self.algorithm]()
        return Engine(
            dict.fromkeys(self.gpus, CAPACITY),
            algorithm,
            max_bypass=self.max_bypass,
            seed=7,
            groups=self.first_limits,
        )

    def tell(self, event: Callable[[Engine], Any]) -> Any:
        """Apply an event, remember it for the replay, and add up what the decisions say."""
        self.now_ns += 1
        answer = event(self.engine)
        self.events.append(event)
        self.answers.append(answer)
        for decision in answer or ():
            self.note(decision)
        return answer

    def note(self, decision: Decision) -> None:
        if isinstance(decision, Admitted | NotAdmitted):
            self.to_start.remove(decision.container)
            if isinstance(decision, Admitted):
                self.join(decision.container)
                for gpu in self.quotas[decision.container]:
                    account = self.engine.account(decision.container, gpu, self.now_ns)
                    assert account.assigned_bytes >= account.guarantee_bytes, "it starts with the whole guarantee"
            else:
                del self.quotas[decision.container]
            return
        request = decision.request
        assert isinstance(request.request_id, int)
        was_waiting = self.waiting.pop(request.request_id, None) is not None
        if isinstance(decision, Granted):
            assert decision.resumed == was_waiting
            key = (request.process, request.gpu)
            self.held[key] = self.held.get(key, 0) + request.size_bytes
            if not request.forced:
                assert decision.numbers.used + request.size_bytes <= decision.numbers.assigned
                assert decision.numbers.assigned <= decision.numbers.limit
        elif isinstance(decision, Suspended):
            assert not was_waiting
            self.waiting[request.request_id] = request
        elif decision.reason is Reason.LIMIT:
            numbers = decision.numbers
            assert numbers is not None
            assert numbers.used + numbers.waiting + request.size_bytes > numbers.limit
        elif decision.reason is Reason.GROUP_LIMIT:
            numbers = decision.numbers
            assert numbers is not None
            most = self.ceiling(request.container, request.gpu)
            assert most < numbers.used + numbers.waiting + request.size_bytes <= numbers.limit
        elif decision.reason is Reason.WAIT_TIMEOUT:
            wait_ns = self.wait_ns[request.container]
            assert wait_ns is not None
            assert decision.waited_ns >= wait_ns

    @rule(
        name=st.sampled_from(NAMES),
        data=st.data(),
        wait_ns=st.sampled_from([None, None, 20]),
        queued=st.booleans(),
        group=st.sampled_from([None, *GROUPS]),
    )
    def start_container(
        self, name: ContainerId, data: st.DataObject, wait_ns: int | None, queued: bool, group: GroupName | None
    ) -> None:
        if name not in self.quotas:
            used = data.draw(st.sets(st.sampled_from(self.gpus), min_size=1))
            self.start(name, {gpu: data.draw(quotas) for gpu in sorted(used)}, wait_ns, queued=queued, group=group)

    def start(
        self,
        name: ContainerId,
        wanted: dict[GpuUuid, Quota],
        wait_ns: int | None,
        *,
        queued: bool = False,
        group: GroupName | None = None,
    ) -> None:
        now_ns = self.now_ns + 1
        more: dict[str, Any] = {
            "wait_ns": wait_ns,
            "priority": len(self.events) % 3,
            "group": group,
            "queued_ns": now_ns if queued else None,
            "now_ns": now_ns,
        }
        before = {**self.quotas}
        self.quotas[name] = dict(wanted)
        self.wait_ns[name] = wait_ns
        self.groups[name] = group
        self.processes[name] = []
        if queued:
            self.to_start.add(name)
        try:
            self.tell(lambda engine: engine.start_container(name, now_ns, wanted, **more))
        except QuotaRefusedError:
            assert any(
                quota.limit_bytes > min(self.engine.capacity(gpu), self.ceiling(name, gpu))
                for gpu, quota in wanted.items()
            )
            self.quotas = before
            self.to_start.discard(name)
            return
        if not queued:
            self.join(name)

    def ceiling(self, name: ContainerId, gpu: GpuUuid) -> int:
        """The lowest limit of a container's groups."""
        limits = [self.group_limits.get(group, {}) for group in path_of(self.groups[name])]
        return min((each[gpu] for each in limits if gpu in each), default=1000)

    def join(self, name: ContainerId) -> None:
        for _ in range(2):
            self.next_id += 1
            process = ProcessKey(pid=self.next_id, start_ticks=7)
            self.processes[name].append(process)
            self.tell(lambda engine, process=process: engine.start_process(process, name))

    def draw_place(self, data: st.DataObject) -> tuple[ContainerId, ProcessKey, GpuUuid]:
        name = data.draw(st.sampled_from(sorted(name for name in self.quotas if self.processes[name])))
        return name, data.draw(st.sampled_from(self.processes[name])), data.draw(st.sampled_from(sorted(self.gpus)))

    def ask(self, data: st.DataObject, size: int, *, waitable: bool, forced: bool) -> None:
        name, process, gpu = self.draw_place(data)
        self.next_id += 1
        now_ns = self.now_ns + 1
        request = Request(self.next_id, process, name, gpu, size, waitable, forced, now_ns, "cuMemAlloc_v2")
        first = self.tell(lambda engine: engine.request(request, now_ns))[0]
        assert first.request is request
        if gpu not in self.quotas[name]:
            assert isinstance(first, Denied)
            assert first.reason is Reason.DEVICE
        elif forced:
            assert isinstance(first, Granted)
        elif not waitable:
            assert not isinstance(first, Suspended)

    @precondition(lambda self: any(self.processes.values()))
    @rule(data=st.data(), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6))
    def request(self, data: st.DataObject, sizes: list[int]) -> None:
        for size in sizes:
            self.ask(data, size, waitable=True, forced=False)

    @precondition(lambda self: any(self.processes.values()))
    @rule(data=st.data(), size=st.integers(1, CAPACITY))
    def request_that_cannot_wait(self, data: st.DataObject, size: int) -> None:
        self.ask(data, size, waitable=False, forced=False)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = process, gpu = data.draw(st.sampled_from(sorted(self.held)))
        size = data.draw(st.integers(1, self.held[key]))
        now_ns = self.now_ns
        self.held[key] -= size
        if not self.held[key]:
            del self.held[key]
        self.tell(lambda engine: engine.release(process, gpu, size, now_ns))

    def forget(self, processes: list[ProcessKey]) -> None:
        self.held = {key: size for key, size in self.held.items() if key[0] not in processes}

    @precondition(lambda self: any(self.processes.values()))
    @rule(data=st.data())
    def end_process(self, data: st.DataObject) -> None:
        name, process, _ = self.draw_place(data)
        now_ns = self.now_ns
        self.processes[name].remove(process)
        self.forget([process])
        self.waiting = {key: request for key, request in self.waiting.items() if request.process != process}
        self.tell(lambda engine: engine.end_process(process, name, now_ns))

    def end(self, name: ContainerId) -> list[Decision]:
        now_ns = self.now_ns
        if name not in self.to_start:
            del self.quotas[name]
        self.forget(self.processes.pop(name))
        left = {key for key, request in self.waiting.items() if request.container == name}
        decisions = self.tell(lambda engine: engine.end_container(name, now_ns))
        denied = [decision for decision in decisions if isinstance(decision, Denied)]
        gone = {decision.request.request_id for decision in denied if decision.reason is Reason.CONTAINER_GONE}
        assert gone == left
        return list(decisions)

    @precondition(lambda self: self.quotas)
    @rule(data=st.data())
    def end_container(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.quotas))))

    @precondition(lambda self: self.quotas)
    @rule(data=st.data(), quota=quotas)
    def set_quota(self, data: st.DataObject, quota: Quota) -> None:
        name = data.draw(st.sampled_from(sorted(self.quotas)))
        gpu = data.draw(st.sampled_from(sorted(self.quotas[name])))
        now_ns = self.now_ns
        try:
            self.tell(lambda engine: engine.set_quota(name, gpu, quota, now_ns))
        except QuotaRefusedError:
            most = min(self.quotas[name][gpu].limit_bytes, self.engine.capacity(gpu), self.ceiling(name, gpu))
            assert quota.limit_bytes > most
            return
        self.quotas[name][gpu] = quota

    @rule(data=st.data(), group=st.sampled_from(GROUPS), more=st.integers(0, 4))
    def raise_group_limit(self, data: st.DataObject, group: GroupName, more: int) -> None:
        limits = self.group_limits.get(group, {})
        raised = {gpu: size + more for gpu, size in limits.items() if data.draw(st.integers(0, 3))}
        self.change_group(group, raised)

    def change_group(self, group: GroupName, limits: dict[GpuUuid, int]) -> None:
        now_ns = self.now_ns
        before, self.group_limits = self.group_limits, {**self.group_limits, group: limits}
        try:
            self.tell(lambda engine: engine.set_group_limits({group: limits}, now_ns))
        except QuotaRefusedError:
            self.group_limits = before

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.waiting)))
        now_ns = self.now_ns
        del self.waiting[request_id]
        self.tell(lambda engine: engine.cancel(request_id, now_ns))

    @precondition(lambda self: self.waiting)
    @rule(passed_ns=st.integers(1, 30))
    def time_passes(self, passed_ns: int) -> None:
        self.now_ns += passed_ns
        now_ns = self.now_ns
        self.tell(lambda engine: engine.expire(now_ns))
        deadline_ns = self.engine.next_deadline_ns()
        assert deadline_ns is None or deadline_ns > now_ns

    @invariant()
    def figures_agree(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.check()
        for gpu in self.gpus:
            assigned = 0
            for name, wanted in self.quotas.items():
                if gpu not in wanted:
                    continue
                account = self.engine.account(name, gpu, self.now_ns)
                mine = [size for (process, device), size in self.held.items() if self.is_at(process, name, device, gpu)]
                assert account.used_bytes == sum(mine), "used is what the decisions granted, minus what came back"
                assert account.used_bytes <= account.assigned_bytes
                assert account.over == (account.used_bytes > account.limit_bytes)
                assert account.over or account.assigned_bytes <= account.limit_bytes == wanted[gpu].limit_bytes
                assigned += account.assigned_bytes
            assert assigned + self.engine.free_bytes(gpu) == self.engine.capacity(gpu)
            self.groups_agree(gpu)
            entries = self.engine.queue(gpu)
            assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
            here = {key for key, request in self.waiting.items() if request.gpu == gpu}
            assert {entry.request.request_id for entry in entries} == here

    def groups_agree(self, gpu: GpuUuid) -> None:
        for group in GROUPS:
            account = self.engine.group_account(group, gpu)
            members = {name for name in self.members(group) if gpu in self.quotas[name]}
            accounts = [self.engine.account(name, gpu, self.now_ns) for name in members]
            assert set(account.members) == members
            assert account.assigned_bytes == sum(each.assigned_bytes for each in accounts)
            assert account.limit_bytes == self.group_limits.get(group, {}).get(gpu)
            if account.limit_bytes is not None:
                assert account.over == (account.assigned_bytes > account.limit_bytes)
                unused = account.assigned_bytes - sum(each.used_bytes for each in accounts)
                assert not (account.over and unused), "what is not used has been taken back"
                assert not account.over or self.may_be_over

    def members(self, group: GroupName) -> list[ContainerId]:
        return [name for name in self.quotas if group in path_of(self.groups[name])]

    may_be_over = False

    def is_at(self, process: ProcessKey, name: ContainerId, device: GpuUuid, gpu: GpuUuid) -> bool:
        return device == gpu and process in self.processes[name]

    @invariant()
    def all_could_finish(self) -> None:
        assert not hasattr(self, "engine") or self.some_order_finishes()

    def some_order_finishes(self) -> bool:
        """The definition of a safe state, from the accounts alone."""
        accounts = {
            name: {gpu: self.engine.account(name, gpu, self.now_ns) for gpu in wanted}
            for name, wanted in self.quotas.items()
        }
        for order in permutations(accounts):
            left: dict[tuple[GpuUuid, GroupName | None], int] = {
                (gpu, None): self.engine.free_bytes(gpu) for gpu in self.gpus
            }
            for group, limits in self.group_limits.items():
                for gpu, limit in limits.items():
                    left[gpu, group] = limit - self.engine.group_account(group, gpu).assigned_bytes
            for name in order:
                places = {
                    (gpu, group): account
                    for gpu, account in accounts[name].items()
                    for group in (None, *path_of(self.groups[name]))
                    if (gpu, group) in left
                }
                lacks = {
                    place: min(account.limit_bytes, self.ceiling(name, place[0])) - account.assigned_bytes
                    for place, account in places.items()
                }
                if any(size > max(0, left[place]) for place, size in lacks.items()):
                    break
                for place, account in places.items():
                    left[place] += account.assigned_bytes
            else:
                return True
        return False

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.drain()
        replayed = self.new_engine()
        for event, answer in zip(self.events, self.answers, strict=True):
            assert event(replayed) == answer, "the same events give the same decisions"

    def drain(self) -> None:
        """Nobody waits for ever: when the others have ended, all that waits within its limits goes on."""
        patient = {request.container for request in self.waiting.values()} | self.to_start
        if not patient:
            return
        for name in sorted(self.quotas, reverse=True):
            if name != min(patient):
                self.end(name)
        self.figures_agree()
        assert self.waiting == {}
        assert self.to_start == set()


class StormyMachine(CalmMachine):
    """With what the engine cannot control: memory taken by force, and capacity that comes and goes."""

    @precondition(lambda self: any(self.processes.values()))
    @rule(data=st.data(), size=st.integers(1, 3))
    def force(self, data: st.DataObject, size: int) -> None:
        self.ask(data, size, waitable=False, forced=True)

    @rule(data=st.data(), capacity=st.integers(1, CAPACITY))
    def set_capacity(self, data: st.DataObject, capacity: int) -> None:
        gpu = data.draw(st.sampled_from(self.gpus))
        now_ns = self.now_ns
        self.tell(lambda engine: engine.set_capacity(gpu, capacity, now_ns))

    may_be_over = True

    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def set_group_limit(self, data: st.DataObject, group: GroupName) -> None:
        gpus = data.draw(st.sets(st.sampled_from(self.gpus)))
        self.change_group(group, {gpu: data.draw(st.integers(1, CAPACITY)) for gpu in sorted(gpus)})

    @invariant()
    def all_could_finish(self) -> None:
        """Not promised here; but who could finish must stay able to: `check` and test_safety_rule see to that."""

    def drain(self) -> None:
        now_ns = self.now_ns
        for group in GROUPS:
            self.change_group(group, {})
        for gpu in self.gpus:
            self.tell(lambda engine, gpu=gpu: engine.set_capacity(gpu, 3 * CAPACITY, now_ns))
        super().drain()


TestCalm = CalmMachine.TestCase
TestCalm.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, database=None, phases=PHASES)
TestStormy = StormyMachine.TestCase
TestStormy.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, database=None, phases=PHASES)
