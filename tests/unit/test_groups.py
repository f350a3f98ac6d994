# SPDX-License-Identifier: Apache-2.0
"""Containers that share one quota: what the limit of a group allows, who waits for it, and what changes it."""

from __future__ import annotations

import pytest

from convgpu.core.algorithms import load_algorithm
from convgpu.core.decision import Admitted, Decision, Denied, Granted, Reason, Suspended
from convgpu.core.engine import Engine
from convgpu.core.explain import Obstacle
from convgpu.core.groups import NAME_FORM, parse_group, path_of
from convgpu.core.identity import ContainerId, GpuUuid, GroupName, ProcessKey
from convgpu.core.ledger import Carried
from convgpu.core.quota import Quota
from convgpu.core.request import Request
from convgpu.errors import QuotaRefusedError, UsageError

GPU0, GPU1 = GpuUuid("GPU-0"), GpuUuid("GPU-1")
LAB, TEAM, OTHER = GroupName("lab"), GroupName("lab/team"), GroupName("other")


class Machine:
    """An engine and its containers, each with one process; sizes are small numbers."""

    def __init__(
        self,
        capacity: int = 100,
        groups: dict[GroupName, int | dict[GpuUuid, int]] | None = None,
        gpus: tuple[GpuUuid, ...] = (GPU0,),
        algorithm: str = "fifo",
        **settings: object,
    ) -> None:
        limits = {
            group: dict.fromkeys(gpus, limit) if isinstance(limit, int) else limit
            for group, limit in (groups or {}).items()
        }
        self.gpus = gpus
        self.engine = Engine(dict.fromkeys(gpus, capacity), load_algorithm(algorithm), groups=limits, **settings)  # type: ignore[arg-type]
        self.now_ns = 0
        self.processes: dict[str, ProcessKey] = {}

    def start(
        self, name: str, limit: int, guarantee: int = 0, group: GroupName | None = None, gpus: tuple[GpuUuid, ...] = ()
    ) -> list[Decision]:
        self.now_ns += 1
        quotas = dict.fromkeys(gpus or self.gpus, Quota(limit, guarantee))
        decisions = self.engine.start_container(ContainerId(name), self.now_ns, quotas, group=group)
        self.processes[name] = ProcessKey(self.now_ns, 1)
        self.engine.start_process(self.processes[name], ContainerId(name))
        return decisions

    def ask(self, name: str, size: int, gpu: GpuUuid = GPU0, *, wait: bool = True, forced: bool = False) -> Decision:
        self.now_ns += 1
        request = Request(
            self.now_ns, self.processes[name], ContainerId(name), gpu, size, wait, forced, self.now_ns, "cuMemAlloc_v2"
        )
        first = self.engine.request(request, self.now_ns)[0]
        self.engine.check()
        return first

    def give_back(self, name: str, size: int) -> list[Decision]:
        self.now_ns += 1
        decisions = self.engine.release(self.processes[name], GPU0, size, self.now_ns)
        self.engine.check()
        return decisions

    def end(self, name: str) -> list[Decision]:
        self.now_ns += 1
        return self.engine.end_container(ContainerId(name), self.now_ns)

    def set_group(self, group: GroupName, limit: int | None) -> list[Decision]:
        self.now_ns += 1
        limits = {} if limit is None else dict.fromkeys(self.gpus, limit)
        decisions = self.engine.set_group_limits({group: limits}, self.now_ns)
        self.engine.check()
        return decisions

    def waiting(self, gpu: GpuUuid = GPU0) -> list[str]:
        return [entry.request.container for entry in self.engine.queue(gpu)]


@pytest.mark.parametrize("name", ["lab", "lab/team", "a/b/c", "2nd_floor", "my-Project", "lab "])
def test_names(name: str) -> None:
    assert parse_group(name) == name.strip()


@pytest.mark.parametrize("name", ["", "/", "lab/", "/lab", "a//b", "a b", "-lab", "lab.team", "läb", "../lab", "a\n"])
def test_what_is_no_name(name: str) -> None:
    if name.strip() == "a":
        assert parse_group(name) == "a", "a line's end is no part of it"
        return
    with pytest.raises(UsageError) as refused:
        parse_group(name)
    assert NAME_FORM in refused.value.message


def test_a_name_has_an_end() -> None:
    parse_group("/".join("abcdefgh"))
    with pytest.raises(UsageError, match="at most 8 levels"):
        parse_group("/".join("abcdefghi"))
    with pytest.raises(UsageError, match="128 characters"):
        parse_group("a" * 129)


def test_a_group_in_a_group_is_in_both() -> None:
    assert path_of(TEAM) == (LAB, TEAM)
    assert path_of(None) == ()


def test_the_limit_bounds_the_sum_and_each_member_has_its_own() -> None:
    machine = Machine(groups={LAB: 10})
    machine.start("ann", 8, group=LAB)
    machine.start("bob", 3, group=LAB)
    machine.start("eve", 8)
    assert isinstance(machine.ask("ann", 8), Granted)
    answer = machine.ask("bob", 3)
    assert isinstance(answer, Suspended)
    assert answer.group == LAB
    assert answer.numbers.free == 92, "the device has room"
    assert isinstance(machine.ask("eve", 8), Granted), "who is in no group is not concerned"
    resumed = machine.give_back("ann", 1)
    assert [type(each) for each in resumed] == [Granted]
    assert machine.engine.group_account(LAB, GPU0).assigned_bytes == 10


@pytest.mark.parametrize(("lab", "team", "granted"), [(10, 4, 4), (4, 10, 4), (10, 10, 10), (6, 6, 6)])
def test_the_lowest_limit_on_the_way_up_counts(lab: int, team: int, granted: int) -> None:
    machine = Machine(groups={LAB: lab, TEAM: team})
    machine.start("ann", 4, group=TEAM)
    machine.start("bob", min(lab, team), group=TEAM)
    got = sum(isinstance(machine.ask(name, 1, wait=False), Granted) for name in ("ann", "bob") for _ in range(10))
    assert got == min(granted, 4 + min(lab, team))


def test_what_a_team_holds_counts_in_its_lab_and_not_in_another_team() -> None:
    machine = Machine(groups={LAB: 10, TEAM: 6})
    machine.start("ann", 6, group=TEAM)
    machine.start("bob", 10, group=LAB)
    machine.start("cyd", 6, group=GroupName("lab/second"))
    assert isinstance(machine.ask("ann", 6), Granted)
    assert isinstance(machine.ask("cyd", 4), Granted)
    answer = machine.ask("bob", 1)
    assert isinstance(answer, Suspended)
    assert answer.group == LAB
    lab, team = (machine.engine.group_account(group, GPU0) for group in (LAB, TEAM))
    assert (lab.assigned_bytes, lab.members, lab.waiting) == (10, ("ann", "bob", "cyd"), 1)
    assert (team.assigned_bytes, team.members, team.waiting) == (6, ("ann",), 0)


def test_a_group_without_a_limit_sums_and_bounds_nothing() -> None:
    machine = Machine()
    for name in ("ann", "bob"):
        machine.start(name, 50, group=TEAM)
        assert isinstance(machine.ask(name, 50), Granted)
    account = machine.engine.group_account(LAB, GPU0)
    assert (account.limit_bytes, account.assigned_bytes, account.over) == (None, 100, False)
    assert machine.engine.groups() == [LAB, TEAM]


def test_a_limit_above_that_of_the_group_is_refused_with_both_numbers() -> None:
    machine = Machine(groups={LAB: 10})
    with pytest.raises(QuotaRefusedError, match="a limit of 11B is more than the 10B that group lab may have"):
        machine.start("ann", 11, group=TEAM)
    machine.start("ann", 10, group=TEAM)
    with pytest.raises(QuotaRefusedError, match="group lab"):
        machine.engine.set_quota(ContainerId("ann"), GPU0, Quota(11, 0), 9)


def test_a_guarantee_is_the_part_of_it_that_the_group_has() -> None:
    machine = Machine(groups={LAB: 10})
    machine.start("ann", 8, 8, LAB)
    machine.start("bob", 8, 8, LAB)
    assert machine.engine.account(ContainerId("bob"), GPU0, 0).assigned_bytes == 2
    assert isinstance(machine.ask("bob", 3), Suspended)
    assert [type(each) for each in machine.end("ann")] == [Granted]


def test_a_start_that_waits_for_its_guarantee_waits_for_the_group() -> None:
    machine = Machine(groups={LAB: 10})
    machine.start("ann", 8, 8, LAB)
    quotas = {GPU0: Quota(4, 4)}
    assert machine.engine.start_container(ContainerId("bob"), 9, quotas, group=LAB, queued_ns=9, now_ns=9) == []
    explanation = machine.engine.explain_start(machine.engine.pending_starts()[0])[GPU0]
    assert (explanation.obstacle, explanation.group, explanation.group_free_bytes) == (Obstacle.GROUP, LAB, 2)
    assert [type(each) for each in machine.end("ann")] == [Admitted]


def test_members_that_could_block_each_other_are_kept_from_it() -> None:
    """Both hold half of a group of 10 and want 6: without the rule the second half would be given away too."""
    for safe, second in ((True, Suspended), (False, Granted)):
        machine = Machine(groups={LAB: 10}, safe=safe)
        machine.start("ann", 6, group=LAB)
        machine.start("bob", 6, group=LAB)
        assert isinstance(machine.ask("ann", 5), Granted)
        assert isinstance(machine.ask("bob", 5), second), "all of the group would be theirs, and neither could end"
        assert isinstance(machine.ask("ann", 1), Granted if safe else Suspended)


def test_neither_the_devices_nor_the_group_alone_show_this_deadlock() -> None:
    """Ann must end before bob in the group, and after him on the other device; so she may not begin there."""
    machine = Machine(4, groups={LAB: {GPU0: 2}}, gpus=(GPU0, GPU1))
    machine.engine.start_container(ContainerId("ann"), 1, {GPU0: Quota(1, 0), GPU1: Quota(4, 0)}, group=LAB)
    machine.engine.start_container(ContainerId("bob"), 2, {GPU0: Quota(2, 0), GPU1: Quota(2, 0)}, group=LAB)
    for number, name in enumerate(("ann", "bob"), start=1):
        machine.processes[name] = ProcessKey(number, 1)
        machine.engine.start_process(machine.processes[name], ContainerId(name))
    assert isinstance(machine.ask("ann", 1, GPU0), Granted)
    answer = machine.ask("bob", 1, GPU1)
    assert isinstance(answer, Suspended), "ann could then end only after bob, and bob, in the group, only after ann"
    assert machine.engine.explain(answer.request.request_id) is not None
    assert machine.engine.is_safe()


def test_a_request_that_is_more_than_a_group_may_have_is_denied_by_that_name() -> None:
    machine = Machine(groups={LAB: 10})
    machine.start("ann", 8, group=LAB)
    machine.start("bob", 8, group=LAB)
    machine.ask("ann", 5)
    machine.ask("bob", 1)
    waiting = machine.ask("ann", 3)
    assert isinstance(waiting, Granted)
    machine.set_group(LAB, 6)
    answer = machine.ask("bob", 6)
    assert isinstance(answer, Denied)
    assert answer.reason is Reason.GROUP_LIMIT


def test_a_lowered_limit_denies_what_waits_and_can_never_be_granted() -> None:
    machine = Machine(groups={LAB: 10})
    machine.start("ann", 10, group=LAB)
    machine.start("bob", 10, group=LAB)
    machine.ask("ann", 6)
    assert isinstance(machine.ask("bob", 5), Suspended)
    denied = machine.set_group(LAB, 4)
    assert [(type(each), each.reason) for each in denied if isinstance(each, Denied)] == [(Denied, Reason.GROUP_LIMIT)]


def test_lowered_below_what_is_held_takes_back_what_is_not_used_and_nothing_else() -> None:
    machine = Machine(groups={LAB: 10})
    machine.start("ann", 5, group=LAB)
    machine.start("bob", 5, 5, LAB)
    machine.ask("ann", 3)
    machine.ask("bob", 2)
    machine.set_group(LAB, 4)
    account = machine.engine.group_account(LAB, GPU0)
    assert (account.assigned_bytes, account.used_bytes, account.over) == (5, 5, True)
    assert isinstance(machine.ask("bob", 1), Suspended)
    machine.give_back("ann", 3)
    assert not machine.engine.group_account(LAB, GPU0).over
    assert machine.waiting() == [], "once it is under, what waits goes on"


def test_a_raised_limit_lets_those_go_on_that_wait() -> None:
    machine = Machine(groups={LAB: 4})
    machine.start("ann", 4, group=LAB)
    machine.start("bob", 4, group=LAB)
    machine.ask("ann", 4)
    assert isinstance(machine.ask("bob", 3), Suspended)
    resumed = machine.set_group(LAB, 8)
    assert [(type(each), each.resumed) for each in resumed if isinstance(each, Granted)] == [(Granted, True)]
    assert machine.set_group(LAB, None) == []


def test_a_limit_is_not_raised_into_a_possible_deadlock() -> None:
    machine = Machine(10, groups={LAB: 10})
    machine.start("ann", 6, group=LAB)
    machine.start("bob", 6, group=OTHER)
    machine.set_group(LAB, 5)
    assert isinstance(machine.ask("ann", 5), Granted)
    assert isinstance(machine.ask("bob", 5), Granted), "ann can have no more, so she can end"
    with pytest.raises(QuotaRefusedError, match=r"limits of lab .* wait for each other for ever"):
        machine.set_group(LAB, 10)
    assert machine.engine.group_limits() == {LAB: {GPU0: 5}}
    with pytest.raises(QuotaRefusedError):
        machine.engine.check_group_limits({LAB: {}})
    machine.give_back("bob", 1)
    assert machine.set_group(LAB, 10) == []


def test_memory_taken_by_force_makes_a_group_over_and_is_nobodys_to_give() -> None:
    machine = Machine(groups={LAB: 6})
    machine.start("ann", 4, group=LAB)
    machine.start("bob", 4, 2, LAB)
    machine.ask("ann", 4)
    machine.ask("bob", 2)
    assert isinstance(machine.ask("bob", 2, wait=False, forced=True), Granted)
    account = machine.engine.group_account(LAB, GPU0)
    assert (account.assigned_bytes, account.over) == (8, True)
    assert isinstance(machine.ask("bob", 1), Denied)
    machine.give_back("ann", 1)
    assert isinstance(machine.ask("ann", 1), Suspended)


def test_forced_memory_takes_the_unused_guarantee_of_another_member_back() -> None:
    machine = Machine(groups={LAB: 6})
    machine.start("ann", 3, 3, LAB)
    machine.start("bob", 3, 3, LAB)
    machine.start("eve", 3, 3)
    machine.ask("bob", 3)
    machine.ask("bob", 2, wait=False, forced=True)
    assert machine.engine.account(ContainerId("ann"), GPU0, 0).assigned_bytes == 1
    assert machine.engine.account(ContainerId("eve"), GPU0, 0).assigned_bytes == 3, "outside nothing is short"


def test_a_restored_member_has_what_it_had_though_the_limit_is_lower_now() -> None:
    machine = Machine(groups={LAB: 4})
    machine.engine.restore_container(ContainerId("ann"), 1, {GPU0: Quota(8, 8)}, carried={GPU0: Carried(8)}, group=LAB)
    machine.engine.start_process(ProcessKey(1, 1), ContainerId("ann"))
    machine.engine.adopt(ProcessKey(1, 1), GPU0, 6)
    account = machine.engine.group_account(LAB, GPU0)
    assert (account.assigned_bytes, account.used_bytes, account.over) == (6, 6, True)
    machine.engine.check()


def test_the_explanation_tells_the_group_from_the_device() -> None:
    machine = Machine(10, groups={LAB: 6})
    machine.start("ann", 6, group=LAB)
    machine.start("bob", 6, group=LAB)
    machine.start("eve", 10)
    machine.ask("ann", 6)
    in_group = machine.engine.explain(machine.ask("bob", 2).request.request_id)  # type: ignore[union-attr]
    assert in_group is not None
    assert (in_group.obstacle, in_group.group, in_group.group_free_bytes) == (Obstacle.GROUP, LAB, 0)
    assert (in_group.free_bytes, in_group.enough) == (4, ("ann",))
    machine.ask("eve", 4)
    both = machine.engine.explain(machine.engine.queue(GPU0)[0].request.request_id)
    assert both is not None
    assert (both.obstacle, both.group) == (Obstacle.NOT_FREE, LAB), "the device has nothing either"
    outside = machine.engine.explain(machine.ask("eve", 1).request.request_id)  # type: ignore[union-attr]
    assert outside is not None
    assert (outside.obstacle, outside.group) == (Obstacle.NOT_FREE, None)


def test_who_waits_for_its_group_alone_is_passed_over_by_nobody_outside_and_holds_nobody_back() -> None:
    """The lab is full for hours; meanwhile others come and go on the device, and all of them get what they ask for."""
    machine = Machine(groups={LAB: 4}, max_bypass=3)
    machine.start("ann", 4, group=LAB)
    machine.start("bob", 4, group=LAB)
    machine.ask("ann", 4)
    assert isinstance(machine.ask("bob", 1), Suspended)
    for number in range(10):
        machine.start(f"n{number}", 5)
        assert isinstance(machine.ask(f"n{number}", 5), Granted)
    assert machine.engine.passed(ContainerId("bob"), GPU0) == 0


def test_newcomers_of_its_own_group_pass_it_over_as_those_of_a_device_do() -> None:
    """`recent-use` serves who came last; after the bound bob has his turn, and eve outside is not held back for him."""
    machine = Machine(groups={LAB: 8}, max_bypass=3, algorithm="recent-use")
    machine.start("ann", 8, group=LAB)
    machine.start("bob", 2, group=LAB)
    machine.ask("ann", 8)
    assert isinstance(machine.ask("bob", 2), Suspended)
    served = []
    for number in range(6):
        machine.start(f"n{number}", 1, group=LAB)
        assert isinstance(machine.ask(f"n{number}", 1), Suspended)
        machine.start(f"eve{number}", 9)
        assert isinstance(machine.ask(f"eve{number}", 9), Granted)
        granted = machine.give_back("ann", 1)
        served.append([each.request.container for each in granted if isinstance(each, Granted)])
    assert served == [["n0"], ["n1"], ["n2"], [], ["bob"], ["n5"]]
    assert machine.engine.passed(ContainerId("bob"), GPU0) == 0, "he waits no more"
