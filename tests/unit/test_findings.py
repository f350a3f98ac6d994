# SPDX-License-Identifier: Apache-2.0
"""The table of the three-way check: figures of one process in, what is wrong with it out."""

from __future__ import annotations

from typing import Any

import pytest

from convgpu.core.findings import (
    Agreement,
    FindingKind,
    PageFigures,
    ProcessFigures,
    agreement,
    external,
    judge,
    suspicions,
    undecided,
)
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.units import GIB, MIB

ALPHA, GPU = ContainerId("a" * 64), GpuUuid("GPU-0")
KEY = ProcessKey(4711, 99)


def page(used: int = GIB, **fields: Any) -> PageFigures:
    """Return a page at rest, of which everything is in use; fields by name change it."""
    granted = used + fields.get("reserved_bytes", 0) + fields.get("credit_bytes", 0) + fields.get("managed_bytes", 0)
    return PageFigures(**{"used_bytes": used, "granted_bytes": granted, "held_bytes": granted, **fields})


def process(its_page: PageFigures | None, witness: int | None, nvml: int | None, **fields: Any) -> ProcessFigures:
    return ProcessFigures(key=KEY, page=its_page, witness_bytes=witness, nvml_bytes=nvml, **fields)


@pytest.mark.parametrize(
    ("figures", "kind"),
    [
        # Nothing wrong.
        (process(page(), GIB, GIB), None),
        (process(page(), None, None), None),
        (process(page(), GIB, None), None),
        (process(page(0), 0, None), None),
        (process(None, 0, None), None),
        (process(page(credit_bytes=GIB), GIB, GIB), None),
        (process(page(managed_bytes=GIB), GIB, GIB), None),
        # A call in flight: the driver has it already, the page says that it is on its way.
        (process(page(reserved_bytes=2 * GIB), 3 * GIB, 3 * GIB), None),
        # The page moved while the others were read: what was granted may be in use.
        (process(page(credit_bytes=GIB), GIB, 2 * GIB, at_rest=False, most_held_bytes=2 * GIB), None),
        (process(page(), GIB, 2 * GIB, at_rest=False, most_held_bytes=2 * GIB), None),
        # No wrapper.
        (process(None, None, GIB), FindingKind.UNWRAPPED),
        (process(None, GIB, GIB), FindingKind.UNWRAPPED),
        (process(None, 2 * MIB, None), FindingKind.UNWRAPPED),
        (process(None, GIB, None, has_driver_file=True), FindingKind.UNWRAPPED),
        # The witness alone, and the process has no file of the driver: the memory ended with its file.
        (process(None, GIB, None, has_driver_file=False), FindingKind.MISMATCH),
        (process(page(), 3 * GIB, None, has_driver_file=False), FindingKind.MISMATCH),
        (process(page(), 3 * GIB, GIB), FindingKind.MISMATCH),
        # More than the wrapper said.
        (process(page(), 3 * GIB, 3 * GIB), FindingKind.BYPASS),
        (process(page(), None, 3 * GIB), FindingKind.BYPASS),
        (process(page(), 3 * GIB, None, has_driver_file=True), FindingKind.BYPASS),
        (process(page(), GIB, GIB + 2 * MIB), FindingKind.BYPASS),
        (process(page(reserved_bytes=GIB), 3 * GIB, 3 * GIB), FindingKind.BYPASS),
        (process(page(), GIB, 3 * GIB, at_rest=False, most_held_bytes=2 * GIB), FindingKind.BYPASS),
        # Less than a granule is a difference, and nobody's bypass.
        (process(page(), GIB, GIB + 2 * MIB - 1), FindingKind.MISMATCH),
        # The ledger has more than is seen: exported memory, or a witness that came late.
        (process(page(), 0, GIB), FindingKind.MISMATCH),
        (process(page(), 0, None), FindingKind.MISMATCH),
        (process(page(), GIB, 0), FindingKind.MISMATCH),
        (process(page(), GIB - 1, GIB - 1, at_rest=False), None),
        # Held before the witness came: its figure is NVML's of then, and says nothing against the page.
        (process(page(), 3 * GIB, None, has_driver_file=True, partial=True), None),
        (process(page(), 3 * GIB, GIB, partial=True), None),
        (process(page(), 3 * GIB, 3 * GIB, partial=True), FindingKind.BYPASS),
        (process(None, GIB, None, has_driver_file=True, partial=True), None),
        # What the page gives away by itself, whatever the others see.
        (process(page(altered=("limit_bytes",)), GIB, GIB), FindingKind.TAMPERED),
        (process(page(granted_bytes=2 * GIB), GIB, GIB), FindingKind.TAMPERED),
        (process(page(credit_bytes=GIB, granted_bytes=GIB, held_bytes=GIB), GIB, GIB), FindingKind.TAMPERED),
        (process(page(3 * GIB, granted_bytes=GIB, held_bytes=GIB), 3 * GIB, 3 * GIB), FindingKind.TAMPERED),
        (process(page(altered=("wanted",), estimated=True), None, None), FindingKind.TAMPERED),
        # Granted, in nobody's hands, and held all the same: used was lowered.
        (process(page(GIB, granted_bytes=3 * GIB, held_bytes=3 * GIB), 3 * GIB, 3 * GIB), FindingKind.TAMPERED),
        # A grant on its way to the process is in nobody's hands either.
        (process(page(GIB, granted_bytes=3 * GIB, held_bytes=3 * GIB), GIB, GIB), None),
        # An estimate is no figure to compare with.
        (process(page(estimated=True), 3 * GIB, 3 * GIB), None),
    ],
)
def test_what_figures_mean(figures: ProcessFigures, kind: FindingKind | None) -> None:
    verdict = judge(figures)
    assert (None if verdict is None else verdict.kind) == kind


@pytest.mark.parametrize(
    ("agreed", "frees", "at_rest", "kind"),
    [
        (Agreement(3 * GIB, 7), 7, True, FindingKind.TAMPERED),
        (Agreement(3 * GIB, 7), 8, True, FindingKind.BYPASS),  # something was freed: perhaps all that used fell by
        (Agreement(GIB, 7), 7, True, FindingKind.BYPASS),  # used is what it was
        (Agreement(3 * GIB, 7), 7, False, FindingKind.BYPASS),
        (None, 7, True, FindingKind.BYPASS),
    ],
)
def test_used_bytes_fall_only_with_a_free(
    agreed: Agreement | None, frees: int, at_rest: bool, kind: FindingKind
) -> None:
    figures = process(page(credit_bytes=2 * GIB), 3 * GIB, 6 * GIB, witness_frees=frees, at_rest=at_rest)
    verdict = judge(figures, agreed)
    assert verdict is not None
    assert verdict.kind == kind


def test_page_and_witness_agree_only_at_rest_and_to_the_byte() -> None:
    assert agreement(process(page(), GIB, None, witness_frees=7)) == Agreement(GIB, 7)
    for other in (
        process(page(), GIB + 1, None),
        process(page(), None, GIB),
        process(page(reserved_bytes=1), GIB, None),
        process(page(), GIB, None, at_rest=False),
        process(page(), GIB, None, partial=True),
        process(None, 0, None),
    ):
        assert agreement(other) is None


def test_a_container_has_one_suspicion_of_a_kind_with_all_its_processes_and_figures() -> None:
    first = ProcessFigures(key=ProcessKey(9, 1), page=None, witness_bytes=GIB, nvml_bytes=None)
    second = ProcessFigures(key=ProcessKey(8, 1), page=None, witness_bytes=2 * GIB, nvml_bytes=2 * GIB)
    third = process(page(), 3 * GIB, 3 * GIB)
    judged = [(each, judge(each)) for each in (first, second, third)]
    bypass, unwrapped = suspicions(ALPHA, GPU, judged)
    assert (bypass.kind, bypass.processes) == (FindingKind.BYPASS, (KEY,))
    assert (unwrapped.kind, unwrapped.processes) == (FindingKind.UNWRAPPED, (ProcessKey(8, 1), ProcessKey(9, 1)))
    for suspicion in (bypass, unwrapped):
        assert (suspicion.used_bytes, suspicion.witness_bytes, suspicion.nvml_bytes) == (GIB, 6 * GIB, 5 * GIB)
    assert unwrapped.reason == "1GiB held without the wrapper; 2GiB held without the wrapper"


def test_what_nobody_knows_is_null_and_never_zero() -> None:
    alone = ProcessFigures(key=KEY, page=None, nvml_bytes=GIB)
    (suspicion,) = suspicions(ALPHA, GPU, [(alone, judge(alone))])
    assert (suspicion.used_bytes, suspicion.witness_bytes, suspicion.nvml_bytes) == (None, None, GIB)


@pytest.mark.parametrize(
    ("assigned", "capacity", "outside", "is_one"),
    [
        (6, 5, 5, True),
        (6, 6, 4, False),  # there is enough
        (6, 5, 0, False),  # a configured capacity: nobody outside is in the way
        (9, 5, 3, False),  # it would not do without them either
    ],
)
def test_what_is_held_outside_counts_when_it_is_in_the_way(
    assigned: int, capacity: int, outside: int, is_one: bool
) -> None:
    suspicion = external(
        GPU, assigned_bytes=assigned * GIB, capacity_bytes=capacity * GIB, external_bytes=outside * GIB
    )
    assert (suspicion is not None) == is_one


def test_what_cannot_be_decided_is_said_in_words() -> None:
    assert undecided(witness=None) == ()
    (alone,) = undecided(witness=None, silent_gpus=(1, 0))
    assert alone == "NVML gives no figures for the processes on GPU 0, 1: the witness alone is asked"
    (late,) = undecided(witness=None, partial=2)
    assert late == "2 processes held memory before the witness came: NVML alone is asked"
    blind, nothing = undecided(witness="no bcc", silent_gpus=(0,))
    assert blind.startswith("no witness (no bcc): ")
    assert nothing.endswith("nothing that goes past the wrapper is found")
