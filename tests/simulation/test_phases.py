# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from convgpu.core.identity import GpuUuid
from convgpu.core.units import GIB, MIB
from convgpu.errors import UsageError
from convgpu.simulation.phases import parse_phases
from convgpu.simulation.workload import Ask, End, Release

LEFT, RIGHT = GpuUuid("left"), GpuUuid("right")
SECOND = 1_000_000_000


def test_times_count_from_the_last_answer() -> None:
    assert parse_phases("2s +1GiB 10s -512MiB 5s +1GiB@right 500ms", [LEFT, RIGHT]) == (
        Ask(2 * SECOND, LEFT, GIB),
        Release(10 * SECOND, LEFT, 512 * MIB, after=(0,)),
        Ask(15 * SECOND, RIGHT, GIB),
        End(SECOND // 2, after=(1,)),
    )


def test_one_allocation_comes_after_the_other() -> None:
    assert parse_phases("+1GiB +2GiB", [LEFT]) == (Ask(0, LEFT, GIB), Ask(0, LEFT, 2 * GIB, (0,)), End(0, (1,)))


def test_a_program_may_use_no_memory() -> None:
    assert parse_phases("10s 5s", [LEFT]) == (End(15 * SECOND),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("+1GiB later", "'later' is neither"),
        ("none", "a phase comes to an end"),
        ("+lots", "'lots' is not a size"),
        ("+1GiB -2GiB", "frees 1GiB more than is allocated"),
        ("+1GiB@left -1GiB@right", "frees 1GiB more"),
        ("+1GiB@other", "no GPU 'other'; it has left, right"),
    ],
)
def test_what_cannot_be_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_phases(text, [LEFT, RIGHT])
