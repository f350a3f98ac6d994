# SPDX-License-Identifier: Apache-2.0
"""The lines of a trace, and what it comes to, in less than 80 columns and without rich: a listing starts at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from convgpu.core.histogram import Histogram, TraceSummary
from convgpu.core.trace import TraceEvent
from convgpu.tui import figures

WIDTH: Final = 79
_TIME: Final = slice(11, 23)
"""HH:MM:SS.mmm of an RFC 3339 time."""
_STARS: Final = 40
_NANOSECOND_UNITS: Final = (("s", 10**9), ("ms", 10**6), ("us", 10**3))


def _row(time: str, container: str, pid: str, comm: str, api: str, kind: str, size: str, took: str) -> str:
    names = f"{time:12} {_cut(container, 11):11} {pid:>7} {_cut(comm, 8):8} {_cut(api, 16):16}"
    return f"{names} {kind:5} {size:>{figures.SIZE_WIDTH}} {took:>6}"


def _cut(text: str, width: int) -> str:
    """Cut a text; what a program calls itself may contain control characters, which no terminal is to see."""
    text = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 1] + "~"


HEADING: Final = _row("TIME (UTC)", "CONTAINER", "PID", "COMM", "CALL", "KIND", "SIZE", "TOOK")


def event_line(event: TraceEvent) -> str:
    """Write one event."""
    return _row(
        event.ts[_TIME],
        event.container_name or "(host)",
        str(event.pid),
        event.comm,
        event.api or event.source,
        event.kind,
        figures.size(event.size_bytes),
        latency(event.latency_ns),
    )


def stack_lines(stack: tuple[str, ...]) -> list[str]:
    """Write where a call was made, a line a frame, below its event."""
    return [f"    {_cut(frame, WIDTH - 4)}" for frame in stack] or ["    no stack: it was lost"]


def latency(duration_ns: int) -> str:
    """Write a duration in at most six characters: `850ns`, `12.5us`, `340us`, `1.20ms`, `12.3s`."""
    for unit, factor in _NANOSECOND_UNITS:
        if duration_ns >= factor:
            amount = duration_ns / factor
            decimals = 2 if amount < 9.995 and unit == "ms" else 1 if amount < 99.95 else 0
            return f"{amount:.{decimals}f}{unit}"
    return f"{duration_ns}ns"


def summary_lines(summary: TraceSummary) -> list[str]:
    """Write what a trace comes to: counts by call, then sizes and durations, each source for itself."""
    if not summary.calls:
        return ["Nothing happened.", *_lost(summary)]
    lines = [f"{'SEEN AT':10} {'CALL':28} {'OK':>9} {'FAILED':>8} {'SIZE':>8} {'MEAN':>8}"]
    for (source, api), call in sorted(summary.calls.items(), key=lambda item: (item[0][0], -item[1].succeeded)):
        mean = latency(call.latency_ns // (call.succeeded + call.failed))
        size = figures.size(call.size_bytes)
        lines.append(f"{source:10} {_cut(api, 28):28} {call.succeeded:>9} {call.failed:>8} {size:>8} {mean:>8}")
    for source, histogram in sorted(summary.sizes.items()):
        lines += ["", *_histogram(f"size at the {source}", histogram, figures.size)]
    for source, histogram in sorted(summary.latencies.items()):
        lines += ["", *_histogram(f"time taken at the {source}", histogram, latency)]
    return lines + _lost(summary)


def _lost(summary: TraceSummary) -> list[str]:
    return ["", f"{summary.lost} events were lost and are not in here."] if summary.lost else []


def _histogram(title: str, histogram: Histogram, write: Callable[[int], str]) -> list[str]:
    most = max(histogram.counts.values())
    lines = [f"{title:>24}   {'count':>8}"]
    for power, count in histogram.rows():
        low = 0 if power == 0 else 1 << power
        stars = "*" * -(-count * _STARS // most)
        lines.append(f"{write(low):>10} to {write(2 << power):>10}   {count:>8} |{stars}".rstrip())
    return lines
