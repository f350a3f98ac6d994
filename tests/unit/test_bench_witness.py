# SPDX-License-Identifier: Apache-2.0
"""What the witness's benchmarks make of their samples; they measure in tools/bench."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from convgpu.sources.bpf_kernel import ProgramRuns

BENCH = Path(__file__).parent.parent.parent / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import flood
    import probe_floor

    return flood, probe_floor


@pytest.fixture
def good(bench):
    flood, _ = bench
    return flood.Figures(
        seconds=10.0,
        calls=2_600_000,
        calls_a_second=260_000,
        daemon_of_a_core=0.02,
        resident_mib=170,
        resident_own_mib=80,
        lost={"suppressed": 2_500_000},
        logged={"suppressed": 2_500_000},
        floods=[flood.Flood(7, 1_300_000, 1_300_000), flood.Flood(8, 1_300_000, 1_300_000)],
    )


def missed(figures):
    return [what for what, _, _, holds in figures.verdicts() if not holds]


def test_a_flood_that_is_counted_to_the_last_call_meets_all(good):
    assert missed(good) == []


@pytest.mark.parametrize(("counted", "left"), [(1_299_999, 0), (1_300_001, 0), (1_300_000, 4096)])
def test_one_call_or_byte_too_few_or_too_many_is_not_exact(bench, good, counted, left):
    flood, _ = bench
    assert missed(replace(good, floods=[good.floods[0], flood.Flood(8, 1_300_000, counted, left)])) == ["balances"]


def test_a_loss_that_the_log_does_not_have_is_missed(good):
    assert missed(replace(good, logged={})) == ["losses"]
    assert missed(replace(good, logged={"suppressed": 2_499_999})) == ["losses"]


def test_a_slow_flood_proves_nothing(good):
    assert missed(replace(good, calls_a_second=199_999, daemon_of_a_core=0.61, resident_mib=251)) == [
        "calls",
        "daemon",
        "daemon, resident",
    ]


def test_what_a_way_of_watching_adds_is_the_sum_of_both_calls_medians(bench, tmp_path):
    _, probe_floor = bench
    library = tmp_path / "libcuda.so"
    library.write_bytes(Path("/bin/true").read_bytes())
    report = probe_floor.Report({"session": "Invalid argument"})
    for pair in ("async", "runtime-async"):
        report.samples[pair, "no probe"] = [(200, 100), (210, 110), (9_000, 9_000)]
        report.samples[pair, "empty"] = [(800, 700), (810, 710), (9_000, 9_000)]
    report.runs = {"uprobe__cuMemAlloc_v2": ProgramRuns(64_000, 1000), "uprobe__never": ProgramRuns(0, 0)}
    assert report.added_us("async", "empty") == pytest.approx(1.2)
    lines = report.lines(library)
    assert "| empty | 0.81 | 0.71 | +1.20 | +1.20 |" in lines
    assert "| `uprobe__cuMemAlloc_v2` | 1000 | 64 |" in lines
    assert not any("never" in line for line in lines)
    assert "- not on this kernel: session: Invalid argument" in lines
