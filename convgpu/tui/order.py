# SPDX-License-Identifier: Apache-2.0
"""The orders in which containers can stand, and the words by which they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from convgpu.core.status import DeviceUsage
from convgpu.tui import containers
from convgpu.tui.containers import ContainerRow
from convgpu.tui.state import CREATED, State


@dataclass(frozen=True, slots=True)
class Order:
    """One order.

    Attributes:
        name: What `s` and the last line call it.
        heading: The column that it is by; empty: none.
        value: What is compared; None of a row means not known, and such rows come last whichever way round.
        largest_first: Whether the largest comes first where nobody turns it around.
    """

    name: str
    heading: str = ""
    value: Callable[[ContainerRow], Any] | None = None
    largest_first: bool = False


def _by(value: Callable[[DeviceUsage], int | float | None]) -> Callable[[ContainerRow], int | float | None]:
    return lambda row: None if row.device is None else value(row.device)


def _share(device: DeviceUsage) -> float | None:
    return None if device.used_bytes is None or not device.limit_bytes else device.used_bytes / device.limit_bytes


_GRAVITY: Final = {state: number for number, state in enumerate(containers.STATES)}

ORDERS: Final = (
    Order(CREATED),
    Order("name", containers.NAME.heading, lambda row: row.container.name.casefold()),
    Order("group", containers.GROUP.heading, lambda row: row.container.group),
    Order("gpu", containers.GPU.heading, _by(lambda device: device.index)),
    Order("usage", containers.USAGE.heading, _by(lambda device: device.used_bytes), largest_first=True),
    Order("percent", containers.PERCENT.heading, _by(_share), largest_first=True),
    Order("peak", containers.PEAK.heading, _by(lambda device: device.peak_bytes), largest_first=True),
    Order("procs", containers.PROCESSES.heading, _by(lambda device: len(device.processes)), largest_first=True),
    Order("wait", containers.WAITING.heading, _by(lambda device: device.waiting), largest_first=True),
    Order("denied", containers.DENIED.heading, _by(lambda device: device.denied), largest_first=True),
    Order("state", containers.STATE.heading, lambda row: _GRAVITY.get(row.state, len(_GRAVITY))),
)
BY_NAME: Final = {order.name: order for order in ORDERS}


def next_order(name: str, step: int) -> str:
    """Return the name of the order so many places further in the list, round and round."""
    names = [order.name for order in ORDERS]
    return names[(names.index(name) + step) % len(names)]


def arrange(rows: Iterable[ContainerRow], state: State) -> list[ContainerRow]:
    """Return the rows that the filter lets through, in the order that was chosen; ties stay as they were."""
    words = state.filter.casefold().split()
    chosen = [row for row in rows if not words or _has(row, words)]
    order = BY_NAME[state.sort]
    if order.value is None:
        return chosen[::-1] if state.reverse else chosen
    known: list[tuple[Any, ContainerRow]] = []
    unknown: list[ContainerRow] = []
    for row in chosen:
        value = order.value(row)
        if value is None:
            unknown.append(row)
        else:
            known.append((value, row))
    known.sort(key=itemgetter(0), reverse=order.largest_first != state.reverse)
    return [row for _, row in known] + unknown


def _has(row: ContainerRow, words: Iterable[str]) -> bool:
    """Whether every word is in the name, group, image, a state or the name of a process, or begins the id."""
    container = row.container
    said = [container.name, container.group or "", container.image, container.state, row.state, *row.findings]
    said += [process.comm or "" for process in container.processes]
    text = "\n".join(said).casefold()
    return all(word in text or container.container_id.startswith(word) for word in words)
