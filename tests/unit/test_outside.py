# SPDX-License-Identifier: Apache-2.0
"""What is held outside ConvGPU: noise changes nothing, what lasts does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.core.units import GIB, MIB
from convgpu.daemon.outside import LASTING_NS, STEP_BYTES, Holding, Outside, outside_bytes, rounded_up
from convgpu.sources.nvml import GpuReading
from convgpu.testing.gpus import make_gpu

BASE_BYTES = 618 * MIB
"""An idle H200's."""


def reading(used_bytes: int | None, processes: dict[int, int | None] | None = None) -> GpuReading:
    return GpuReading(
        uuid=make_gpu().uuid,
        used_bytes=used_bytes,
        utilization_percent=None,
        temperature_c=None,
        process_bytes=processes or {},
    )


def after(outside: Outside, *sizes: int, step_ns: int = 1_000_000_000, start_ns: int = 0) -> list[int]:
    """Note one reading a second; return what is in force after each."""
    in_force = []
    for number, size_bytes in enumerate(sizes):
        outside.note(size_bytes, start_ns + number * step_ns)
        in_force.append(outside.in_force_bytes)
    return in_force


def test_outside_is_what_no_guarded_process_holds() -> None:
    measured = reading(BASE_BYTES + 5 * GIB, {1: 3 * GIB, 2: 2 * GIB})
    assert outside_bytes(measured, [Holding(1, 3 * GIB, 0)]) == BASE_BYTES + 2 * GIB


def test_what_nvml_does_not_tell_is_not_known() -> None:
    assert outside_bytes(reading(None), [Holding(1, GIB, 0)]) is None


@pytest.mark.parametrize("figure", [None, GIB])
def test_what_a_page_has_and_nvml_does_not_yet_is_not_outside(figure: int | None) -> None:
    """NVML is read first; what was taken since stands in the page alone, and so does what NVML cannot tell."""
    assert outside_bytes(reading(BASE_BYTES + 3 * GIB, {1: figure}), [Holding(1, 3 * GIB, 0)]) == BASE_BYTES


def test_a_process_that_nvml_does_not_list_yet_holds_what_its_page_says() -> None:
    assert outside_bytes(reading(BASE_BYTES + GIB), [Holding(1, GIB, 0)]) == BASE_BYTES


def test_what_a_guarded_process_has_beyond_all_that_it_was_granted_is_outside() -> None:
    measured = reading(BASE_BYTES + 5 * GIB, {1: 5 * GIB})
    assert outside_bytes(measured, [Holding(1, GIB, 0, granted_bytes=2 * GIB)]) == BASE_BYTES + 3 * GIB
    assert outside_bytes(measured, [Holding(1, GIB, 0, granted_bytes=6 * GIB)]) == BASE_BYTES


def test_what_nvml_shows_before_the_page_does_is_not_outside_either() -> None:
    """A context being made: the driver has taken it, the ledger settles it a moment later."""
    assert outside_bytes(reading(BASE_BYTES + 518 * MIB, {1: 518 * MIB}), [Holding(1, 0, 0)]) == BASE_BYTES


def test_managed_memory_which_nvml_shows_with_no_process_is_not_outside() -> None:
    assert outside_bytes(reading(BASE_BYTES + 2 * GIB, {1: GIB}), [Holding(1, GIB, GIB)]) == BASE_BYTES


def test_it_is_never_less_than_nothing() -> None:
    assert outside_bytes(reading(GIB, {1: 2 * GIB}), [Holding(1, 2 * GIB, GIB)]) == 0


def test_it_is_rounded_up_so_that_nothing_is_promised_that_is_not_there() -> None:
    assert Outside(BASE_BYTES).in_force_bytes == 640 * MIB
    assert Outside(0).in_force_bytes == 0


def test_more_counts_when_it_lasts_by_the_smallest_reading() -> None:
    outside = Outside(BASE_BYTES)
    assert after(outside, 5 * GIB, 4 * GIB, 6 * GIB) == [640 * MIB, 640 * MIB, 4 * GIB]


def test_less_counts_when_it_lasts_by_the_largest_reading() -> None:
    outside = Outside(8 * GIB)
    assert after(outside, 2 * GIB, 3 * GIB, GIB) == [8 * GIB, 8 * GIB, 3 * GIB]


def test_one_reading_that_caught_an_allocation_between_two_figures_changes_nothing() -> None:
    outside = Outside(BASE_BYTES)
    noise = [BASE_BYTES, BASE_BYTES + 40 * GIB, BASE_BYTES, 0, BASE_BYTES, BASE_BYTES + GIB, BASE_BYTES + GIB, 0]
    assert set(after(outside, *noise * 5)) == {640 * MIB}


def test_what_the_driver_adds_with_each_process_does_not_move_it_back_and_forth() -> None:
    """3 MiB of drift and 5 MiB for each of up to six processes: it grows at most once, and stays."""
    outside = Outside(BASE_BYTES)
    readings = [BASE_BYTES + (number % 7) * 5 * MIB - (number % 3) * MIB for number in range(300)]
    steps = after(outside, *[size for size in readings for _ in range(4)])
    assert sum(before != now for before, now in pairwise(steps)) <= 1


def test_many_quick_rounds_do_not_make_it_hasty() -> None:
    outside = Outside(0)
    in_force = after(outside, *[GIB] * 60, step_ns=50_000_000)
    assert in_force.index(GIB) == LASTING_NS // 50_000_000


def test_slow_rounds_take_three() -> None:
    outside = Outside(0)
    assert after(outside, GIB, GIB, GIB, step_ns=60_000_000_000) == [0, 0, GIB]


@given(
    first=st.integers(0, 80 * GIB),
    sizes=st.lists(st.integers(0, 80 * GIB), max_size=40),
    steps_ns=st.lists(st.integers(50_000_000, 5_000_000_000), min_size=40, max_size=40),
)
def test_it_only_ever_goes_where_every_reading_of_the_last_two_seconds_points(
    first: int, sizes: list[int], steps_ns: list[int]
) -> None:
    outside = Outside(first)
    noted: list[tuple[int, int]] = []
    now_ns = 0
    for size_bytes, step_ns in zip(sizes, steps_ns, strict=False):
        now_ns += step_ns
        noted.append((now_ns, size_bytes))
        before = outside.in_force_bytes
        outside.note(size_bytes, now_ns)
        recent = [size for when_ns, size in noted if now_ns - when_ns <= LASTING_NS]
        if outside.in_force_bytes > before:
            assert min(recent) > before
            assert outside.in_force_bytes <= rounded_up(min(recent))
        elif outside.in_force_bytes < before:
            assert max(recent) < before
            assert outside.in_force_bytes >= max(recent)
        assert outside.in_force_bytes % STEP_BYTES == 0


@given(st.integers(0, 80 * GIB), st.integers(0, 80 * GIB))
def test_what_lasts_always_counts(first: int, lasting: int) -> None:
    outside = Outside(first)
    after(outside, *[lasting] * 4)
    assert outside.in_force_bytes >= lasting
    assert outside.in_force_bytes - lasting <= 2 * STEP_BYTES + STEP_BYTES
