# SPDX-License-Identifier: Apache-2.0
"""What a log could not take, until the log says so itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Losses:
    """Counts records that were not written, and syncs that failed.

    Attributes:
        records: Not written since the last report.
        syncs: Failed since the beginning; a thread may count here while another reports.
        syncs_reported: How many of these were reported.
        since_ns: CLOCK_MONOTONIC of the first that is not reported.
        reason: Of the last.
    """

    records: int = 0
    syncs: int = 0
    syncs_reported: int = 0
    since_ns: int = 0
    reason: str = ""

    @property
    def count(self) -> int:
        """All that are not reported."""
        return self.records + self.syncs - self.syncs_reported

    def note(self, error: OSError, now_ns: int) -> None:
        """Something could not be written, and why; what it was is counted by the caller."""
        if not self.count:
            self.since_ns = now_ns
        self.reason = error.strerror or type(error).__name__

    def report(self, now_ns: int) -> list[dict[str, object]]:
        """Return the fields of the records that say it; `reported` comes when they are written."""
        syncs = self.syncs - self.syncs_reported
        return [
            {"reason": f"{what}: {self.reason}", "count": count, "period_ns": now_ns - self.since_ns}
            for what, count in (("not written", self.records), ("not synced", syncs))
            if count
        ]

    def reported(self, syncs: int) -> None:
        """The log says it now; `syncs` is the count of failed syncs when the report was made."""
        self.records = 0
        self.syncs_reported = syncs
