# SPDX-License-Identifier: Apache-2.0
"""Measures one run: memory over time, who waited how long, who was passed over.

All sums are integers (nanoseconds, bytes, and their products), so the order of additions cannot change a figure.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from convgpu.core.fairness import jain_index
from convgpu.core.identity import GpuUuid
from convgpu.simulation.result import ContainerResult, DeviceResult, Summary, Timeline
from convgpu.simulation.workload import Container, Device

_SECOND_NS: Final = 1_000_000_000
_RATIO_DIGITS: Final = 6


@dataclass(slots=True, eq=False)
class Stay:
    """What is measured of one container.

    Attributes:
        outcome: As in `ContainerResult`; "" while it runs.
        suspended_ns: How long its start or at least one of its requests waited, the wait that still lasts not counted.
        waiting: How many of them wait now.
    """

    container: Container
    outcome: str = ""
    ended_ns: int = 0
    suspended_ns: int = 0
    waiting: int = 0
    waiting_since_ns: int = 0


@dataclass(slots=True, eq=False)
class _Gauge:
    """One device."""

    device: Device
    capacity_bytes: int
    capacity_area: int = 0
    capacity_area_at_end: int = 0  # when the last container ended so far
    used_bytes: int = 0
    peak_used_bytes: int = 0
    used_area: int = 0
    assigned_area: int = 0
    suspensions: int = 0
    queue: list[int] = field(default_factory=list)  # the numbers of those that wait, in the order of their suspension
    peak_waiting: int = 0


class Meter:
    """Follows one run.

    Args:
        devices: All devices.
        free_bytes: Tells what is not assigned on a device now.
        keep_timeline: Whether to keep all that changes over time, for pictures.
    """

    def __init__(
        self, devices: Iterable[Device], free_bytes: Callable[[GpuUuid], int], *, keep_timeline: bool = False
    ) -> None:
        self._gauges = {device.gpu: _Gauge(device, device.capacity_bytes) for device in devices}
        self._free_bytes = free_bytes
        self._timelines = {gpu: _timeline() for gpu in self._gauges} if keep_timeline else {}
        self._stays: list[Stay] = []
        self._began_ns: int | None = None
        self._now_ns = 0
        self._denials: Counter[str] = Counter()
        self._bypassed_worst = 0
        self._bypassed_sum = 0
        self._bypassed_count = 0
        self.deviations = 0

    def move_to(self, now_ns: int) -> None:
        """Time goes on: what is the case now has been so since the last time."""
        if self._began_ns is not None:
            past_ns = now_ns - self._now_ns
            for gpu, gauge in self._gauges.items():
                assigned_bytes = gauge.capacity_bytes - self._free_bytes(gpu)
                gauge.capacity_area += gauge.capacity_bytes * past_ns
                gauge.used_area += gauge.used_bytes * past_ns
                gauge.assigned_area += assigned_bytes * past_ns
                if self._timelines:
                    self._append(gauge, assigned_bytes)
        self._now_ns = now_ns

    def arrived(self, container: Container) -> Stay:
        """A container starts, or would."""
        if self._began_ns is None:
            self._began_ns = self._now_ns
        stay = Stay(container)
        self._stays.append(stay)
        return stay

    def left(self, stay: Stay, outcome: str) -> None:
        """A container is over."""
        stay.outcome = outcome
        stay.ended_ns = self._now_ns
        for gauge in self._gauges.values():
            gauge.capacity_area_at_end = gauge.capacity_area

    def set_capacity(self, gpu: GpuUuid, capacity_bytes: int) -> None:
        """What may be assigned on a device changes."""
        self._gauges[gpu].capacity_bytes = capacity_bytes

    def held(self, gpu: GpuUuid, change_bytes: int) -> None:
        """A process holds more, or less if below zero."""
        gauge = self._gauges[gpu]
        gauge.used_bytes += change_bytes
        gauge.peak_used_bytes = max(gauge.peak_used_bytes, gauge.used_bytes)

    def denied(self, reason: str) -> None:
        """A request is denied."""
        self._denials[reason] += 1

    def suspended(self, stay: Stay, gpu: GpuUuid) -> int:
        """A request begins to wait; return its number, to be given to `waited`."""
        gauge = self._gauges[gpu]
        gauge.queue.append(gauge.suspensions)
        gauge.suspensions += 1
        gauge.peak_waiting = max(gauge.peak_waiting, len(gauge.queue))
        self.pause(stay)
        return gauge.suspensions - 1

    def waited(self, stay: Stay, gpu: GpuUuid, number: int) -> None:
        """A request no longer waits, for whatever reason."""
        gauge = self._gauges[gpu]
        place = bisect_left(gauge.queue, number)
        del gauge.queue[place]
        later_and_waiting = len(gauge.queue) - place
        bypassed = gauge.suspensions - 1 - number - later_and_waiting
        self._bypassed_worst = max(self._bypassed_worst, bypassed)
        self._bypassed_sum += bypassed
        self._bypassed_count += 1
        self.go_on(stay)

    def pause(self, stay: Stay) -> None:
        """One more thing of a container waits."""
        if stay.waiting == 0:
            stay.waiting_since_ns = self._now_ns
        stay.waiting += 1

    def go_on(self, stay: Stay) -> None:
        """One less."""
        stay.waiting -= 1
        if stay.waiting == 0:
            stay.suspended_ns += self._now_ns - stay.waiting_since_ns

    def summary(self) -> Summary:
        """All figures, at the end of the run."""
        outcomes = Counter(stay.outcome or "stuck" for stay in self._stays)
        completed = [stay for stay in self._stays if stay.outcome == "completed"]
        waits_ns = sorted(stay.suspended_ns for stay in completed)
        stuck = [stay for stay in self._stays if not stay.outcome]
        ends_ns = [stay.ended_ns for stay in self._stays if stay.outcome in ("completed", "failed")]
        began_ns = self._began_ns or 0
        return Summary(
            containers=len(self._stays),
            completed=outcomes["completed"],
            failed=outcomes["failed"],
            refused=outcomes["refused"],
            stuck=outcomes["stuck"],
            finish_s=None if stuck or not ends_ns else seconds(max(ends_ns) - began_ns),
            mean_turnaround_s=_mean_s([_turnaround_ns(stay) for stay in completed]),
            mean_suspended_s=_mean_s(waits_ns),
            median_suspended_s=_percentile_s(waits_ns, 50),
            p95_suspended_s=_percentile_s(waits_ns, 95),
            p99_suspended_s=_percentile_s(waits_ns, 99),
            worst_suspended_s=_percentile_s(waits_ns, 100),
            jain=jain_index([_progress(stay) for stay in completed]),
            suspensions=sum(gauge.suspensions for gauge in self._gauges.values()),
            denials=dict(sorted(self._denials.items())),
            bypassed_worst=self._bypassed_worst,
            bypassed_mean=_ratio(self._bypassed_sum, self._bypassed_count),
            deadlock_since_s=seconds(max(stay.waiting_since_ns for stay in stuck) - began_ns) if stuck else None,
            deviations=self.deviations,
        )

    def devices(self) -> tuple[DeviceResult, ...]:
        """The devices' figures, at the end of the run."""
        stuck = any(not stay.outcome for stay in self._stays)
        results = []
        for gauge in self._gauges.values():
            whole = gauge.capacity_area if stuck else gauge.capacity_area_at_end
            results.append(
                DeviceResult(
                    name=gauge.device.name,
                    capacity_bytes=gauge.device.capacity_bytes,
                    used=_ratio(gauge.used_area, whole) or 0.0,
                    assigned=_ratio(gauge.assigned_area, whole) or 0.0,
                    peak_used_bytes=gauge.peak_used_bytes,
                    peak_waiting=gauge.peak_waiting,
                )
            )
        return tuple(results)

    def containers(self) -> tuple[ContainerResult, ...]:
        """Every container, in the order of arrival."""
        began_ns = self._began_ns or 0
        return tuple(
            ContainerResult(
                name=stay.container.name,
                outcome=stay.outcome or "stuck",
                arrived_s=seconds(stay.container.arrival_ns - began_ns),
                ended_s=seconds(stay.ended_ns - began_ns) if stay.outcome else None,
                suspended_s=seconds(stay.suspended_ns + (self._now_ns - stay.waiting_since_ns) * bool(stay.waiting)),
            )
            for stay in self._stays
        )

    def timelines(self) -> tuple[Timeline, ...]:
        """Every device over time, if that was kept; the first entry is at the first arrival."""
        for gpu in self._timelines:
            self._append(self._gauges[gpu], self._gauges[gpu].capacity_bytes - self._free_bytes(gpu))
        return tuple(self._timelines.values())

    def _append(self, gauge: _Gauge, assigned_bytes: int) -> None:
        timeline = self._timelines[gauge.device.gpu]
        timeline.at_ns.append(self._now_ns)
        timeline.capacity_bytes.append(gauge.capacity_bytes)
        timeline.used_bytes.append(gauge.used_bytes)
        timeline.assigned_bytes.append(assigned_bytes)
        timeline.waiting.append(len(gauge.queue))


def seconds(time_ns: int) -> float:
    """Nanoseconds as seconds."""
    return time_ns / _SECOND_NS


def _progress(stay: Stay) -> float:
    """Normalised progress: how long it would have taken without waiting, as a part of how long it took."""
    turnaround_ns = _turnaround_ns(stay)
    return (turnaround_ns - stay.suspended_ns) / turnaround_ns if turnaround_ns else 1.0


def _turnaround_ns(stay: Stay) -> int:
    return stay.ended_ns - stay.container.arrival_ns


def _mean_s(times_ns: Sequence[int]) -> float | None:
    return seconds(sum(times_ns) // len(times_ns)) if times_ns else None


def _percentile_s(sorted_ns: Sequence[int], percent: int) -> float | None:
    """The smallest value that so many percent of all do not exceed (nearest rank)."""
    if not sorted_ns:
        return None
    return seconds(sorted_ns[-(-percent * len(sorted_ns) // 100) - 1])


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, _RATIO_DIGITS) if whole else None


def _timeline() -> Timeline:
    return Timeline(array("q"), array("q"), array("q"), array("q"), array("q"))
