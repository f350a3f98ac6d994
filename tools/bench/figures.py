# SPDX-License-Identifier: Apache-2.0
"""Numbers: summaries of samples, ratios of pairs, and the verdict on a target. Nothing here measures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Samples of one arm: how many, median and 99th percentile, in nanoseconds."""

    count: int
    median_ns: float
    p99_ns: float

    @classmethod
    def of(cls, samples_ns: Sequence[float]) -> Summary:
        """Summarise; the percentile is the nearest rank, so it is a sample that was seen."""
        ordered = sorted(samples_ns)
        return cls(len(ordered), statistics.median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1])

    def text(self) -> str:
        """Write it as three cells of a table."""
        return f"{self.count} | {microseconds(self.median_ns)} | {microseconds(self.p99_ns)}"


def microseconds(value_ns: float) -> str:
    """Write nanoseconds as microseconds, with three digits that mean something."""
    value = value_ns / 1000
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        found: What was found, in words and units.
        target: What was promised; empty where nothing was.
        holds: Whether the target is met; None where there is none.
    """

    what: str
    found: str
    target: str = ""
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        """The word for the table: a missed target is loud."""
        return {True: "met", False: "**MISSED**", None: ""}[self.holds]


@dataclass(frozen=True)
class Paired:
    """Rounds of native and wrapped samples, taken in turns.

    Attributes:
        native: Samples of each round, in nanoseconds.
        wrapped: The same, as many rounds.
    """

    native: Sequence[Sequence[float]]
    wrapped: Sequence[Sequence[float]]

    def ratios(self) -> list[float]:
        """Wrapped over native of each round, by the rounds' medians."""
        pairs = zip(self.native, self.wrapped, strict=True)
        return [statistics.median(wrapped) / statistics.median(native) for native, wrapped in pairs]

    def added_ns(self) -> list[float]:
        """Wrapped minus native of each round, by the rounds' medians."""
        pairs = zip(self.native, self.wrapped, strict=True)
        return [statistics.median(wrapped) - statistics.median(native) for native, wrapped in pairs]


def flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    """All samples of all rounds."""
    return [sample for samples in rounds for sample in samples]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and third quartile: how far the pairs agree."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
