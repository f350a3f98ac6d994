# SPDX-License-Identifier: Apache-2.0
"""The safety rule by hand-made cases; tests/property/test_safety_rule.py holds it against its definition."""

from __future__ import annotations

import pytest

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety import index as safety_index
from convgpu.core.safety.index import SafetyIndex
from convgpu.core.safety.stakes import Stake, is_safe, run_to_end

ANN, BOB, CYD = ContainerId("ann"), ContainerId("bob"), ContainerId("cyd")
G0, G1 = GpuUuid("GPU-0"), GpuUuid("GPU-1")


def index_of(free: dict[GpuUuid, int], stakes: dict[ContainerId, dict[GpuUuid, Stake]]) -> SafetyIndex:
    index = SafetyIndex(free, free)
    for container, held in stakes.items():
        index.start(container, {gpu: stake.missing + stake.assigned for gpu, stake in held.items()})
        for gpu, stake in held.items():
            index.assign(container, gpu, stake.assigned, stake.missing)
            index.set_free(gpu, free[gpu])
    return index


def test_one_device_is_safe_if_somebody_can_always_go_first() -> None:
    stakes = {ANN: {G0: Stake(4, 2)}, BOB: {G0: Stake(3, 6)}}
    assert is_safe({G0: 2}, stakes)
    assert not is_safe({G0: 1}, stakes)


def test_what_ends_first_helps_the_next() -> None:
    finished, available = run_to_end({G0: 1}, {ANN: {G0: Stake(4, 1)}, BOB: {G0: Stake(3, 5)}, CYD: {G0: Stake(0, 9)}})
    assert finished == {ANN, BOB}
    assert available == {G0: 8}


def test_holding_one_device_while_waiting_for_the_other_is_the_trap() -> None:
    crossed = {ANN: {G0: Stake(1, 0), G1: Stake(0, 1)}, BOB: {G0: Stake(0, 1), G1: Stake(1, 0)}}
    assert not is_safe({G0: 0, G1: 0}, crossed)
    assert is_safe({G0: 0, G1: 1}, crossed)


def test_enough_on_each_device_alone_is_not_enough_together() -> None:
    stakes = {ANN: {G0: Stake(1, 1), G1: Stake(0, 2)}, BOB: {G0: Stake(0, 2), G1: Stake(1, 1)}}
    for gpu in (G0, G1):
        alone = {container: {gpu: held[gpu]} for container, held in stakes.items()}
        assert is_safe({gpu: 1}, alone)
    assert not is_safe({G0: 1, G1: 1}, stakes)


def test_below_zero_only_those_that_lack_nothing_can_end() -> None:
    assert is_safe({G0: -2}, {ANN: {G0: Stake(4, 0)}, BOB: {G0: Stake(1, 2)}})
    assert not is_safe({G0: -3}, {ANN: {G0: Stake(4, 0)}, BOB: {G0: Stake(1, 2)}})


def test_nobody_is_bound_who_can_reach_the_limit_at_once() -> None:
    index = index_of({G0: 5}, {ANN: {G0: Stake(1, 4)}, BOB: {G0: Stake(2, 6)}})
    assert index.grantable(ANN, G0) == 4


def test_others_are_bound_by_those_who_must_end_before_them() -> None:
    index = index_of({G0: 5}, {ANN: {G0: Stake(3, 4)}, BOB: {G0: Stake(2, 6)}})
    assert index.grantable(BOB, G0) == 1, "four of the five must be kept for ann"


def test_what_is_complete_ends_before_all_others() -> None:
    index = index_of({G0: 1}, {ANN: {G0: Stake(5, 0)}, BOB: {G0: Stake(0, 6)}})
    assert index.grantable(BOB, G0) == 1
    assert index.grantable(ANN, G0) == 0


def test_in_an_unsafe_state_those_who_can_end_are_protected_and_the_others_go_on() -> None:
    stakes = {ANN: {G0: Stake(3, 1)}, BOB: {G0: Stake(2, 9)}, CYD: {G0: Stake(2, 9)}}
    assert not is_safe({G0: 2}, stakes)
    assert index_of({G0: 2}, stakes).grantable(BOB, G0) == 1, "one of the two stays with ann"


def test_an_index_follows_changes() -> None:
    index = index_of({G0: 5, G1: 0}, {ANN: {G0: Stake(3, 4)}, BOB: {G0: Stake(2, 6), G1: Stake(1, 0)}})
    assert index.grantable(BOB, G0) == 1
    index.assign(ANN, G0, 4, 0)
    assert index.free == {G0: 1, G1: 0}
    assert index.grantable(BOB, G0) == 1
    index.remove(ANN)
    assert index.free == {G0: 8, G1: 0}
    assert index.grantable(BOB, G0) == 6


def test_without_the_rule_what_is_free_is_handed_out() -> None:
    stakes = {ANN: {G0: Stake(3, 4)}, BOB: {G0: Stake(2, 6)}}
    index = index_of({G0: 5}, stakes)
    assert index.grantable(BOB, G0) == 1
    index.set_ruled(())
    assert index.grantable(BOB, G0) == 5
    assert index.receivers(G0, {ANN, BOB}) == {ANN, BOB}
    index.assign(BOB, G0, 5, 1)
    assert index.is_safe(), "no device counts"
    index.set_ruled({G0})
    assert not index.is_safe(), "what was handed out without the rule stays so"


def test_a_device_without_the_rule_counts_as_if_it_had_enough_for_everybody() -> None:
    crossed = {ANN: {G0: Stake(1, 0), G1: Stake(0, 1)}, BOB: {G0: Stake(0, 2), G1: Stake(1, 0)}}
    index = index_of({G0: 1, G1: 0}, crossed)
    assert not index.is_safe(), "ann waits for bob on one device, bob for ann on the other"
    assert index.grantable(BOB, G0) == 1, "they cannot finish anyway, so nothing is kept for anybody"
    index.set_ruled({G0})
    assert index.is_safe(), "if ann gets what it lacks on the other device, it ends, and bob can"
    assert index.grantable(BOB, G0) == 1
    index.set_ruled({G1})
    assert index.is_safe()


def test_a_deadlock_on_a_device_without_the_rule_does_not_spread() -> None:
    """On the other device, all can still finish as soon as somebody resolves the one."""
    stakes = {
        ANN: {G0: Stake(2, 2), G1: Stake(3, 1)},
        BOB: {G0: Stake(2, 2), G1: Stake(0, 4)},
    }
    free = {G0: 0, G1: 3}
    with_both = index_of(free, stakes)
    assert not with_both.is_safe(), "both lack two of the first device, of which nothing is left"
    assert with_both.grantable(BOB, G1) == 3, "so under the rule for both, nothing would be kept for ann"
    with_second = index_of(free, stakes)
    with_second.set_ruled({G1})
    assert with_second.is_safe()
    assert with_second.grantable(BOB, G1) == 2, "one of the three is kept for ann, which could then finish"


def test_a_newcomer_can_stand_before_a_wall_that_the_others_are_behind() -> None:
    dan = ContainerId("dan")
    index = index_of(
        {G0: 2, G1: 0},
        {ANN: {G0: Stake(4, 2)}, BOB: {G0: Stake(0, 6), G1: Stake(12, 0)}, CYD: {G0: Stake(0, 1), G1: Stake(0, 10)}},
    )
    assert index.is_safe()
    assert index.receivers(G0, {CYD}) == set(), "all that is free of the first device is kept for ann"
    index.start(dan, {G0: 1, G1: 5})
    assert index.gives_nothing(G0, {CYD, dan})
    index.set_missing(BOB, G1, 0)
    index.assign(BOB, G1, -6, 0)
    assert not index.gives_nothing(G0, {CYD, dan}), "of the second device there is more now than dan lacks"
    assert index.grantable(dan, G0) == 1


def test_what_is_given_back_where_more_is_assigned_than_there_is_can_make_a_state_unsafe() -> None:
    index = index_of({G0: -2}, {ANN: {G0: Stake(4, 0)}, BOB: {G0: Stake(1, 2)}})
    assert index.is_safe()
    index.assign(ANN, G0, -1, 1)
    assert not index.is_safe(), "ann lacks one now, and there is none"


def test_safety_is_found_out_anew_when_more_is_assigned_than_was_asked_for() -> None:
    stakes = {ANN: {G0: Stake(3, 4)}, BOB: {G0: Stake(2, 6)}}
    for given, safe in ((1, True), (2, False)):
        index = index_of({G0: 5}, stakes)
        assert index.is_safe()
        assert index.grantable(BOB, G0) == 1
        index.assign(BOB, G0, given, 6 - given)
        assert index.is_safe() == safe
    index = index_of({G0: 5}, stakes)
    assert index.is_safe()
    assert index.grantable(BOB, G0) == 1
    index.set_free(G0, 4)
    assert index.is_safe()
    index.assign(BOB, G0, 1, 5)
    assert not index.is_safe(), "that it might get one was true before a byte was lost"


def test_lost_capacity_can_make_a_state_unsafe() -> None:
    index = index_of({G0: 2}, {ANN: {G0: Stake(4, 2)}, BOB: {G0: Stake(3, 6)}})
    assert index.is_safe()
    index.set_free(G0, 1)
    assert not index.is_safe()
    index.set_free(G0, 2)
    assert index.is_safe()


def test_devices_that_nothing_connects_any_more_are_looked_at_alone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety_index, "_PATIENCE", 2)
    index = index_of({G0: 5, G1: 5}, {ANN: {G0: Stake(3, 4)}, BOB: {G1: Stake(2, 6)}})
    assert index._regions[G0] is not index._regions[G1]
    index.start(CYD, {G0: 1, G1: 1})
    assert index._regions[G0] is index._regions[G1]
    index.remove(CYD)
    index.set_free(G0, 4)
    index.set_free(G0, 5)
    assert index._regions[G0] is not index._regions[G1]
    assert index._regions[G0].containers == {ANN}
    assert (index.grantable(ANN, G0), index.grantable(BOB, G1)) == (4, 5)
