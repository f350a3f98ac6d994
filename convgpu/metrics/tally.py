# SPDX-License-Identifier: Apache-2.0
"""How often what was decided since the daemon started, and how long was waited. Counted at every decision."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from convgpu.core.decision import Denied, Granted, RequestDecision, Suspended
from convgpu.metrics.table import SUSPENDED_BUCKETS_S

GRANTED: Final = "granted"
RESUMED: Final = "resumed"
SUSPENDED: Final = "suspended"
DENIED: Final = "denied"
WITHDRAWN: Final = "withdrawn"
_NS_PER_S: Final = 1_000_000_000


@dataclass(slots=True)
class Waits:
    """A histogram of waits.

    Attributes:
        counts: Waits by bucket, the last for those above all bounds.
        sum_s: All waits together.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(SUSPENDED_BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, waited_s: float) -> None:
        """Count one wait."""
        self.counts[bisect_left(SUSPENDED_BUCKETS_S, waited_s)] += 1
        self.sum_s += waited_s


class Tally:
    """Counts decisions.

    Attributes:
        decisions: By outcome and reason.
        waits: Of the requests that waited and were answered, by outcome: `granted` or `denied`.
    """

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.waits = {GRANTED: Waits(), DENIED: Waits()}

    def decided(self, decision: RequestDecision) -> None:
        """Count one decision about a request."""
        match decision:
            case Granted():
                self.decisions[RESUMED if decision.resumed else GRANTED, ""] += 1
                if decision.resumed:
                    self.waits[GRANTED].add(decision.waited_ns / _NS_PER_S)
            case Suspended():
                self.decisions[SUSPENDED, ""] += 1
            case Denied():
                self.decisions[DENIED, str(decision.reason)] += 1
                if decision.waited_ns:  # 0: it was denied at once
                    self.waits[DENIED].add(decision.waited_ns / _NS_PER_S)

    def copy(self) -> Tally:
        """Return the counts as they are now."""
        copied = Tally()
        copied.decisions = self.decisions.copy()
        copied.waits = {outcome: Waits(list(waits.counts), waits.sum_s) for outcome, waits in self.waits.items()}
        return copied

    def withdrawn(self) -> None:
        """A request that waited has nobody left to answer."""
        self.decisions[WITHDRAWN, ""] += 1
