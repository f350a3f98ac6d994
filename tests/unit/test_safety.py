# SPDX-License-Identifier: Apache-2.0
"""The safety rule by hand-made cases; tests/property/test_safety_rule.py holds it against its definition."""

from __future__ import annotations

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety import SafetyIndex, Stake, is_safe, run_to_end

ANN, BOB, CYD = ContainerId("ann"), ContainerId("bob"), ContainerId("cyd")
G0, G1 = GpuUuid("GPU-0"), GpuUuid("GPU-1")


def index_of(free: dict[GpuUuid, int], stakes: dict[ContainerId, dict[GpuUuid, Stake]]) -> SafetyIndex:
    index = SafetyIndex()
    for gpu, free_bytes in free.items():
        index.set_free(gpu, free_bytes)
    for container, held in stakes.items():
        for gpu, stake in held.items():
            index.put(container, gpu, stake)
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
    index.put(ANN, G0, Stake(7, 0))
    index.set_free(G0, 1)
    assert index.grantable(BOB, G0) == 1
    index.remove(ANN)
    index.set_free(G0, 8)
    assert index.grantable(BOB, G0) == 6
