# SPDX-License-Identifier: Apache-2.0
"""The answers of the engine: a closed set of values, each with the numbers that led to it.

They are named tuples, because one is made for every decision: a frozen dataclass costs three times as much to make.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from convgpu.core.identity import ContainerId, GroupName
from convgpu.core.request import Request


class Reason(StrEnum):
    """Why a request, or the start of a container, was denied."""

    LIMIT = "limit"
    """Used + waiting + asked is above the container's limit."""
    GROUP_LIMIT = "group_limit"
    """It is within the container's own limit, and above that of one of its groups."""
    NOT_NOW = "not_now"
    """It would have had to wait, and cannot."""
    WAIT_TIMEOUT = "wait_timeout"
    """It waited as long as the container's wait time allows."""
    UNKNOWN_CONTAINER = "unknown_container"
    """The engine knows no such container, or no such process in it."""
    DEVICE = "device"
    """The container has no quota on this device."""
    CONTAINER_GONE = "container_gone"
    """Its container ended while it waited."""


class Numbers(NamedTuple):
    """What the engine saw, in bytes, when it decided: the moment before the request's own bytes count as used.

    For a grant, `assigned` and `free` are those after the bytes it needed were moved from free to assigned, so
    `used + size <= assigned` holds for every grant that was not forced.

    Attributes:
        limit: The container's limit on the device.
        guarantee: Its guarantee.
        assigned: What is set aside for it.
        used: What its processes hold, credit and calls in flight included.
        free: Capacity minus all that is assigned; below zero where memory was taken outside of the engine's control.
        capacity: What may be assigned on the device in all.
        waiting: What other requests of the same container already wait for on the device.
    """

    limit: int
    guarantee: int
    assigned: int
    used: int
    free: int
    capacity: int
    waiting: int = 0


class Granted(NamedTuple):
    """The process holds the bytes from now on.

    Attributes:
        waited_ns: From the request's arrival to now.
        resumed: True: it was suspended before; False: it is the answer to a request just made.
    """

    request: Request
    waited_ns: int
    numbers: Numbers
    resumed: bool = False


class Denied(NamedTuple):
    """The request is over; the caller sees the driver's own out-of-memory code.

    Attributes:
        numbers: None where there is no account: the container, the process or the device is not known.
    """

    request: Request
    reason: Reason
    waited_ns: int
    numbers: Numbers | None


class Suspended(NamedTuple):
    """The request waits.

    Attributes:
        need_bytes: What the container would have to be assigned more for this request to fit.
        position: Place among the waiting requests of the device, from 1, in the order in which they would be served.
        group: The group that keeps it waiting, whatever the device has; None: none does.
    """

    request: Request
    need_bytes: int
    position: int
    numbers: Numbers
    group: GroupName | None = None


class Admitted(NamedTuple):
    """A container that waited for its start has all of its guarantee now.

    Attributes:
        waited_ns: From the moment it began to wait.
    """

    container: ContainerId
    waited_ns: int


class NotAdmitted(NamedTuple):
    """A container that waited for its start does not any more: its time is over (`WAIT_TIMEOUT`), or it is gone."""

    container: ContainerId
    reason: Reason
    waited_ns: int


Decision = Granted | Denied | Suspended | Admitted | NotAdmitted
RequestDecision = Granted | Denied | Suspended
