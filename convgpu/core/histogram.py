# SPDX-License-Identifier: Apache-2.0
"""Histograms of powers of two, and what a trace comes to: sizes, durations and counts by call. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from convgpu.core.trace import FAIL, TraceEvent


@dataclass(slots=True)
class Histogram:
    """Counts by power of two.

    Attributes:
        counts: The key n counts values of at least 2^n and below 2^(n+1); 0 and 1 are both in 0.
    """

    counts: dict[int, int] = field(default_factory=dict)

    def add(self, value: int, times: int = 1) -> None:
        """Count a value, once or several times."""
        power = max(0, value.bit_length() - 1)
        self.counts[power] = self.counts.get(power, 0) + times

    def rows(self) -> list[tuple[int, int]]:
        """Return (power, count) from the lowest to the highest power that occurs, those between with 0."""
        if not self.counts:
            return []
        return [(power, self.counts.get(power, 0)) for power in range(min(self.counts), max(self.counts) + 1)]


@dataclass(slots=True)
class CallCount:
    """One call at one source."""

    succeeded: int = 0
    failed: int = 0
    size_bytes: int = 0
    latency_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFigures:
    """One call at one source, as others see it; the fields are JSON's.

    Attributes:
        source: Where it was seen: `runtime`, `driver` or `boundary`.
        api: The call.
        succeeded: How often it did.
        failed: How often it was refused.
        size_bytes: Of those that succeeded, summed.
        latency_ns: Of all, summed.
    """

    source: str
    api: str
    succeeded: int
    failed: int
    size_bytes: int
    latency_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFigures:
    """What a trace comes to, as others see it; the fields are JSON's.

    Attributes:
        calls: By source and call.
        sizes: Histograms of bytes by source: the key n counts those of at least 2^n and below 2^(n+1) bytes.
        latencies: Histograms of nanoseconds by source, in the same way.
        lost: Events that are not in here: the reader was too slow, or the kernel's ring was full.
    """

    calls: tuple[CallFigures, ...]
    sizes: dict[str, dict[int, int]]
    latencies: dict[str, dict[int, int]]
    lost: int


@dataclass(slots=True)
class TraceSummary:
    """What a trace comes to.

    Attributes:
        sizes: By source: the same memory may be seen at several, so they are never counted together.
        latencies: By source.
        calls: By (source, call).
        lost: Events that are not in here: the reader was too slow, or the kernel's ring was full.
    """

    sizes: dict[str, Histogram] = field(default_factory=dict)
    latencies: dict[str, Histogram] = field(default_factory=dict)
    calls: dict[tuple[str, str], CallCount] = field(default_factory=dict)
    lost: int = 0

    def add(self, events: Iterable[TraceEvent]) -> None:
        """Count events."""
        for event in events:
            call = self.calls.setdefault((event.source, event.api), CallCount())
            call.latency_ns += event.latency_ns
            self.latencies.setdefault(event.source, Histogram()).add(event.latency_ns)
            if event.kind == FAIL:
                call.failed += 1
                continue
            call.succeeded += 1
            call.size_bytes += event.size_bytes
            self.sizes.setdefault(event.source, Histogram()).add(event.size_bytes)

    def figures(self) -> TraceFigures:
        """Return it for others."""
        return TraceFigures(
            calls=tuple(
                CallFigures(
                    source=source,
                    api=api,
                    succeeded=call.succeeded,
                    failed=call.failed,
                    size_bytes=call.size_bytes,
                    latency_ns=call.latency_ns,
                )
                for (source, api), call in sorted(self.calls.items())
            ),
            sizes={source: dict(histogram.rows()) for source, histogram in sorted(self.sizes.items())},
            latencies={source: dict(histogram.rows()) for source, histogram in sorted(self.latencies.items())},
            lost=self.lost,
        )
