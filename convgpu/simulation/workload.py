# SPDX-License-Identifier: Apache-2.0
"""What is to be simulated: devices, containers, and what the processes in them do.

A process is a list of steps. Each happens so long after the last of the answers that it depends on: so a request that
has to wait longer delays all that follows from it, and nothing else. A program written by hand depends on every answer
before; one that was recorded depends on those that it had when it did the step, whatever thread had asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from convgpu.core.groups import GroupLimits
from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.ledger import Carried
from convgpu.core.quota import Quota


class Outcome(Enum):
    """What the process was told when it was recorded; a program written by hand counts on being granted."""

    GRANTED = "granted"
    DENIED = "denied"
    """It went on without the memory. Granted in the simulation, it gives it straight back."""
    UNANSWERED = "unanswered"
    """Nothing that it did depends on the answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks for memory; the process goes on at once, its later steps may depend on the answer.

    Attributes:
        delay_ns: After the last answer that it depends on; before any, after the start of the process.
        after: Numbers of the process's asks, from 0, that it depends on beside those of the steps before.
        outcome: What was recorded. Denied where it was granted before, the process ends: nobody knows what it does.
        waitable: Whether the asker can wait.
        forced: The driver has taken it already.
        label: The recorded id of the request.
    """

    delay_ns: int
    gpu: GpuUuid
    size_bytes: int
    after: tuple[int, ...] = ()
    outcome: Outcome = Outcome.GRANTED
    waitable: bool = True
    forced: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Gives memory back."""

    delay_ns: int
    gpu: GpuUuid
    size_bytes: int
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Gives up waiting for the answer to the ask of this number."""

    delay_ns: int
    ask: int
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The process ends; the last step of each."""

    delay_ns: int
    after: tuple[int, ...] = ()


Step = Ask | Release | Withdraw | End


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a container.

    Attributes:
        steps: In the order in which they happen; the last is an `End`.
        after: How many processes of the container end before it starts.
        delay_ns: From the last of these ends, or the start of the container, to its start.
        adopted: What it holds from before, by device.
    """

    steps: tuple[Step, ...]
    after: int = 0
    delay_ns: int = 0
    adopted: Mapping[GpuUuid, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """One container.

    Attributes:
        arrival_ns: When it starts, on the clock of the simulation.
        created_ns: Orders containers where an algorithm goes by age; any clock.
        quotas: Limit and guarantee on every device it may use.
        processes: In the order of their `after`.
        wait_ns: How long its requests may wait; None: for ever.
        end_delay_ns: From the end of its last process to its own.
        admit_wait: Its start waits for its whole guarantee, whatever the settings say.
        gives_up_ns: After so long it does not wait for its start any more; None: it goes on.
        group: In which group it is.
        carried: What it had, by device, where it ran already when the simulation begins; None: it is new.
    """

    container_id: ContainerId
    name: str
    arrival_ns: int
    created_ns: int
    quotas: Mapping[GpuUuid, Quota]
    processes: tuple[Process, ...]
    priority: int = 0
    wait_ns: int | None = None
    end_delay_ns: int = 0
    carried: Mapping[GpuUuid, Carried] | None = None
    admit_wait: bool = False
    gives_up_ns: int | None = None
    group: GroupName | None = None


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """Somebody changes a limit while containers run."""

    at_ns: int
    container_id: ContainerId
    gpu: GpuUuid
    quota: Quota


@dataclass(frozen=True, slots=True)
class CapacityChange:
    """What may be assigned on a device is more or less from now on."""

    at_ns: int
    gpu: GpuUuid
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class GroupsChange:
    """Limits of some groups are others from now on: of each all that it has."""

    at_ns: int
    limits: GroupLimits


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: what it is called, and how much of it may be assigned."""

    gpu: GpuUuid
    name: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """All of it.

    Attributes:
        title: What it is and where it comes from, in a few words.
        group_limits: The limits of groups at its beginning.
    """

    title: str
    devices: tuple[Device, ...]
    containers: tuple[Container, ...]
    quota_changes: tuple[QuotaChange, ...] = ()
    capacity_changes: tuple[CapacityChange, ...] = ()
    group_limits: GroupLimits = field(default_factory=dict)
    group_changes: tuple[GroupsChange, ...] = ()
