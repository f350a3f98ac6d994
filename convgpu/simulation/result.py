# SPDX-License-Identifier: Apache-2.0
"""What comes out of a run. Field names are the JSON names; times are seconds of virtual time, sizes bytes.

docs/simulation.md has the formula of every figure.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Literal

from convgpu.core.bypass import DEFAULT_MAX_BYPASS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the engine decides.

    Attributes:
        algorithm: Name of the scheduling algorithm.
        seed: Of its random numbers, where it uses any.
        safe: Whether the safety rule is in force.
        max_bypass: How often one that waits may be passed over; 0: as often as the algorithm likes.
        admit: `part`: a container starts with the part of its guarantee that there is; `wait`: when all of it is there.
    """

    algorithm: str
    seed: int = 0
    safe: bool = True
    max_bypass: int = DEFAULT_MAX_BYPASS
    admit: Literal["part", "wait"] = "part"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerResult:
    """One container.

    Attributes:
        outcome: `completed`, `failed` (a request was denied), `refused` (it could not start) or `stuck` (deadlock).
        ended_s: None: it never did.
        suspended_s: How long its start or at least one of its requests waited.
    """

    name: str
    outcome: str
    arrived_s: float
    ended_s: float | None
    suspended_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """One device, from the first arrival to the end of the run.

    Attributes:
        capacity_bytes: At the beginning; what may be assigned can change in recordings.
        used: Mean of what processes held, as a part of the capacity.
        assigned: Mean of what was set aside for containers, as a part of the capacity.
        peak_used_bytes: The most that processes held at one time.
        peak_waiting: The most requests that waited at one time.
    """

    name: str
    capacity_bytes: int
    used: float
    assigned: float
    peak_used_bytes: int
    peak_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All figures of one run. Means and the like are over the containers that completed; None: there were none.

    Attributes:
        finish_s: From the first arrival to the end of the last container; None: deadlock.
        jain: Jain's index of fairness of normalised progress, 1/n to 1.
        suspensions: Requests that had to wait.
        denials: Requests denied, by reason.
        bypassed_worst: How many requests that began to wait later went on before, for the request that suffered most.
        bypassed_mean: The same, mean over the requests that waited.
        deadlock_since_s: When the last of those that are stuck got stuck; None: there was no deadlock.
        deviations: Steps of a recording that could not be done as recorded.
    """

    containers: int
    completed: int
    failed: int
    refused: int
    stuck: int
    finish_s: float | None
    mean_turnaround_s: float | None
    mean_suspended_s: float | None
    median_suspended_s: float | None
    p95_suspended_s: float | None
    p99_suspended_s: float | None
    worst_suspended_s: float | None
    jain: float | None
    suspensions: int
    denials: dict[str, int]
    bypassed_worst: int
    bypassed_mean: float | None
    deadlock_since_s: float | None
    deviations: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """One device over time: each entry holds from its time to the next entry's.

    Attributes:
        waiting: Suspended requests.
    """

    at_ns: array[int]
    capacity_bytes: array[int]
    used_bytes: array[int]
    assigned_bytes: array[int]
    waiting: array[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run."""

    settings: Settings
    summary: Summary
    devices: tuple[DeviceResult, ...]
    containers: tuple[ContainerResult, ...]
    timelines: tuple[Timeline, ...] = ()
