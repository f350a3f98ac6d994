# SPDX-License-Identifier: Apache-2.0
"""What one call costs: pairs of allocation and free, launches, threads, and requests that need the daemon."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Final

from bench import Bench, at_rest, records
from figures import Paired, Summary, flat, microseconds, quartiles
from session import NATIVE, WRAPPED

from convgpu.testing.stage import Stage

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GRANULE: Final = 2 * MIB
_LIMIT: Final = "4GiB"
_HOLD_ROUNDS: Final = 2
_HOLD_COUNT: Final = 64
_SOAK: Final = (f"hold {16 * GRANULE} 16", f"hold {GRANULE} 16")
"""Uses up the credit that is left of the context's reservation, up to 512 MiB: first the bulk, then the rest."""
_DAEMON_ADDED_MOST_NS: Final = 60_000


@dataclass(frozen=True)
class Case:
    """One call to measure.

    Attributes:
        name: In the raw data and the table.
        command: What `calls` is told.
        rounds: How often native and wrapped take turns, in each generation.
        most: The largest ratio that meets the target.
        least: The smallest; for "no difference" a smaller one is suspicious too.
        real_only: The simulated GPU does not have the call.
    """

    name: str
    command: str
    rounds: int
    most: float
    least: float = 0.0
    real_only: bool = False

    @property
    def target(self) -> str:
        """In words."""
        return f"no difference ({self.least} to {self.most})" if self.least else f"<= {self.most}"


CASES: Final = (
    Case("cudaMalloc+cudaFree 4 KiB", f"pair {4 * KIB} 200", 4, 1.02),
    Case("cudaMalloc+cudaFree 4 MiB", f"pair {4 * MIB} 200", 4, 1.02),
    Case("cudaMalloc+cudaFree 256 MiB", f"pair {256 * MIB} 50", 4, 1.02),
    Case("cudaMallocAsync+cudaFreeAsync 1 MiB, warm", f"async {MIB} 2000", 4, 1.10, real_only=True),
    Case("empty kernel, 1000 and a sync, per kernel", "launch 1000 10", 4, 1.02, 0.98, True),
    Case("64 threads, cudaMalloc+cudaFree 4 MiB", f"threads 64 {4 * MIB} 20", 4, 1.05),
)


def measure(bench: Bench) -> None:
    """Measure cases native against wrapped beside a daemon, and native with no daemon at all before and after.

    The witness's probes are attached to the machine's files and system calls, so they also slow down the native
    container beside the daemon. What they cost shows only against a machine without a daemon.
    """
    cases = tuple(case for case in CASES if bench.gpu.real or not case.real_only)
    before = _bare(bench, cases, "before")
    rounds = _alternate(bench, cases)
    after = _bare(bench, cases, "after")
    for case in cases:
        _report(bench, case, rounds[case.name], before[case.name], after[case.name])


def _bare(bench: Bench, cases: tuple[Case, ...], when: str) -> dict[str, list[list[float]]]:
    """Native, while no daemon runs and no probe is attached."""
    found: dict[str, list[list[float]]] = {case.name: [] for case in cases}
    for _ in range(math.ceil(bench.generations / 2)):
        with bench.rig.native("calls", name="calls-bare") as session:
            session.expect("ready")
            for case in cases:
                found[case.name] += [session.ask(case.command) for _ in range(case.rounds)]
    for case in cases:
        for number, samples_ns in enumerate(found[case.name]):
            bench.raw.add(case.name, arm="bare", when=when, round=number, ns=samples_ns)
    return found


def _alternate(bench: Bench, cases: tuple[Case, ...]) -> dict[str, Paired]:
    native: dict[str, list[list[float]]] = {case.name: [] for case in cases}
    wrapped: dict[str, list[list[float]]] = {case.name: [] for case in cases}
    found = {NATIVE: native, WRAPPED: wrapped}
    with bench.daemon():
        for generation in range(bench.generations):
            with bench.rig.pair("calls", _LIMIT) as sessions:
                for case in cases:
                    for number in range(case.rounds):
                        for arm, session in sessions.items():
                            samples_ns = session.ask(case.command)
                            found[arm][case.name].append(samples_ns)
                            bench.raw.add(case.name, arm=arm, generation=generation, round=number, ns=samples_ns)
    return {case.name: Paired(native[case.name], wrapped[case.name]) for case in cases}


def _report(bench: Bench, case: Case, paired: Paired, before: list[list[float]], after: list[list[float]]) -> None:
    ratios = paired.ratios()
    ratio = statistics.median(ratios)
    low, high = quartiles(ratios)
    bench.row(
        case.name,
        f"{arms(paired)}, ratio {ratio:.3f} (median of {len(ratios)} pairs, quartiles {low:.3f} to {high:.3f})",
        case.target,
        holds=case.least <= ratio <= case.most,
    )
    without = Summary.of(flat(before + after))
    early, late = (microseconds(Summary.of(flat(rounds)).median_ns) for rounds in (before, after))
    against_bare = Summary.of(flat(paired.wrapped)).median_ns / without.median_ns
    bench.row(
        f"{case.name}, against a machine without daemon and probes",
        f"bare {in_words(without)}, {early} us before and {late} us after; ratio of the medians {against_bare:.3f}",
        case.target,
        holds=case.least <= against_bare <= case.most,
    )


def in_words(summary: Summary) -> str:
    """Count, median and 99th percentile."""
    median, p99 = microseconds(summary.median_ns), microseconds(summary.p99_ns)
    return f"{median} us (p99 {p99}, n {summary.count})"


def arms(paired: Paired) -> str:
    """Both arms in words."""
    return f"native {in_words(Summary.of(flat(paired.native)))}, wrapped {in_words(Summary.of(flat(paired.wrapped)))}"


def measure_daemon(bench: Bench) -> None:
    """A request that needs the daemon: nothing is freed, so there is never credit, and every granule is asked for."""
    native: list[list[float]] = []
    wrapped: list[list[float]] = []
    asked = 0
    with bench.daemon() as stage:
        for generation in range(bench.generations):
            with bench.rig.pair("calls", _LIMIT) as sessions:
                container_id = sessions[WRAPPED].id()
                for session in sessions.values():
                    for command in _SOAK:
                        session.ask(command)
                asked -= _grants(stage, container_id)
                for number in range(_HOLD_ROUNDS):
                    for arm, found in ((NATIVE, native), (WRAPPED, wrapped)):
                        samples_ns = sessions[arm].ask(f"hold {GRANULE} {_HOLD_COUNT}")
                        found.append(samples_ns)
                        bench.raw.add("daemon", arm=arm, generation=generation, round=number, ns=samples_ns)
                asked += _grants(stage, container_id)
    paired = Paired(native, wrapped)
    added_ns = paired.added_ns()
    low, high = quartiles(added_ns)
    median_ns = statistics.median(added_ns)
    bench.row(
        "a request that needs the daemon: cudaMalloc 2 MiB without credit",
        f"{arms(paired)}, added {microseconds(median_ns)} us (median of {len(added_ns)} pairs, quartiles "
        f"{microseconds(low)} to {microseconds(high)}), ratio {statistics.median(paired.ratios()):.3f}",
        "added <= 60 us",
        holds=median_ns <= _DAEMON_ADDED_MOST_NS,
    )
    expected = len(flat(wrapped))
    bench.row(
        "of these, asked the daemon (grants of 2 MiB in the log)",
        f"{asked} of {expected}",
        "all",
        holds=asked == expected,
    )


def _grants(stage: Stage, container_id: str) -> int:
    """Grants of one granule in the log, which is a little behind: counted when it has come to rest."""

    def count() -> int:
        granted = records(stage, "decision.granted", container_id)
        return sum(record["size_bytes"] == GRANULE for record in granted)

    return at_rest(count)
