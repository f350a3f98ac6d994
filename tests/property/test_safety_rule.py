# SPDX-License-Identifier: Apache-2.0
"""The safety rule against its definition: try every order, try every amount."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.safety import SafetyIndex, Stake, Stakes, is_safe, run_to_end

GPUS = (GpuUuid("GPU-0"), GpuUuid("GPU-1"))

small = st.integers(0, 5)
stakes_of_one = st.dictionaries(st.sampled_from(GPUS), st.builds(Stake, small, small), min_size=1)
all_stakes = st.dictionaries(st.sampled_from([ContainerId(name) for name in "abcde"]), stakes_of_one, max_size=5)
free = st.fixed_dictionaries({gpu: st.integers(-3, 6) for gpu in GPUS})


def can_all_finish(available: dict[GpuUuid, int], stakes: Stakes) -> bool:
    """The definition: some order in which each reaches its limit with what is there at its turn."""
    for order in permutations(stakes):
        left = dict(available)
        for container in order:
            if any(stake.missing > max(0, left[gpu]) for gpu, stake in stakes[container].items()):
                break
            for gpu, stake in stakes[container].items():
                left[gpu] += stake.assigned
        else:
            return True
    return False


def index_of(available: dict[GpuUuid, int], stakes: Stakes) -> SafetyIndex:
    index = SafetyIndex()
    for gpu, free_bytes in available.items():
        index.set_free(gpu, free_bytes)
    for container, held in stakes.items():
        for gpu, stake in held.items():
            index.put(container, gpu, stake)
    return index


def with_grant(stakes: Stakes, container: ContainerId, gpu: GpuUuid, size: int) -> Stakes:
    stake = stakes[container][gpu]
    changed = {**stakes[container], gpu: Stake(stake.assigned + size, stake.missing - size)}
    return {**stakes, container: changed}


@settings(max_examples=400, deadline=None, database=None)
@given(free, all_stakes)
def test_safe_means_that_some_order_lets_all_finish(available: dict[GpuUuid, int], stakes: Stakes) -> None:
    assert is_safe(available, stakes) == can_all_finish(available, stakes)


@settings(max_examples=600, deadline=None, database=None)
@given(free, all_stakes)
def test_grantable_is_the_most_that_keeps_everybody_able_to_finish(
    available: dict[GpuUuid, int], stakes: Stakes
) -> None:
    index = index_of(available, stakes)
    before = run_to_end(available, stakes)[0]
    for container, held in stakes.items():
        for gpu, stake in held.items():
            good = [0]
            for size in range(1, min(max(0, available[gpu]), stake.missing) + 1):
                left = {**available, gpu: available[gpu] - size}
                if before <= run_to_end(left, with_grant(stakes, container, gpu, size))[0]:
                    good.append(size)
            assert good == list(range(len(good))), "what is safe to give is safe to give in part"
            assert index.grantable(container, gpu) == good[-1]


@settings(max_examples=200, deadline=None, database=None)
@given(
    free, all_stakes, st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(GPUS), small, small), max_size=12)
)
def test_an_index_kept_up_to_date_answers_like_a_new_one(
    available: dict[GpuUuid, int], stakes: Stakes, changes: list[tuple[str, GpuUuid, int, int]]
) -> None:
    index = index_of(available, stakes)
    current = {container: dict(held) for container, held in stakes.items()}
    for name, gpu, assigned, missing in changes:
        container = ContainerId(name)
        if container in current and assigned == missing:
            del current[container]
            index.remove(container)
        else:
            current.setdefault(container, {})[gpu] = Stake(assigned, missing)
            index.put(container, gpu, Stake(assigned, missing))
        fresh = index_of(available, current)
        for other, held in current.items():
            for device in held:
                assert index.grantable(other, device) == fresh.grantable(other, device)
