# SPDX-License-Identifier: Apache-2.0
"""Who is next among the suspended containers: the Protocol, the algorithms that come with ConvGPU, and the loader.

An algorithm only ranks. Whether a candidate may be served, and with how much, is the engine's business (limits,
safety), so no algorithm can break an invariant. A package adds one through the entry point group
`convgpu.algorithms`; the entry point names a callable without arguments that returns an `Algorithm`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Final, Protocol, runtime_checkable

from convgpu.core.identity import ContainerId
from convgpu.errors import UsageError

ENTRY_POINT_GROUP: Final = "convgpu.algorithms"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A container that waits on one device.

    Attributes:
        created_ns: When the container was created; the tie-breaker, with the id after it.
        priority: As declared; higher goes first where an algorithm heeds it.
        need_bytes: What its first waiting request lacks; greater than zero.
        suspended_since_ns: When its first waiting request arrived, CLOCK_MONOTONIC.
        limit_bytes: Its limit on the device.
        assigned_bytes: What is set aside for it on the device now.
    """

    container: ContainerId
    created_ns: int
    priority: int
    need_bytes: int
    suspended_since_ns: int
    limit_bytes: int
    assigned_bytes: int


@runtime_checkable
class Algorithm(Protocol):
    """Ranks the candidates of one device.

    `order` is a pure function of its arguments: it is also called to show the queue. The engine serves the first
    candidate that may be given something, and then asks again, so a ranking that depends on what is free or
    assigned is always up to date.
    """

    @property
    def name(self) -> str:
        """The name on the command line and in the log."""
        ...

    def order(self, candidates: Sequence[Candidate], free_bytes: int) -> Sequence[Candidate]:
        """Return all candidates, the next one first."""
        ...


class Fifo:
    """The container created first is served first; ties by id."""

    name: Final = "fifo"
    _key = staticmethod(attrgetter("created_ns", "container"))

    def order(self, candidates: Sequence[Candidate], free_bytes: int) -> Sequence[Candidate]:  # noqa: ARG002  # Protocol
        """Return the candidates by time of creation."""
        return sorted(candidates, key=self._key)


_OWN: Final[dict[str, Callable[[], Algorithm]]] = {"fifo": Fifo}


def load_algorithm(name: str) -> Algorithm:
    """Make the algorithm of this name: one of ours, or one that an installed package adds.

    Raises:
        UsageError: No such algorithm (the message names the known ones), or it cannot be loaded.
    """
    if name in _OWN:
        return _OWN[name]()
    added = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in added:
        known = ", ".join(sorted({*_OWN, *added}))
        raise UsageError(f"'{name}' is not a scheduling algorithm; known: {known}")
    try:
        algorithm = added[name].load()()
    except Exception as error:  # whatever a foreign package raises, the person must learn which one
        raise UsageError(
            f"the scheduling algorithm '{name}' ({added[name].value}) cannot be loaded: {error}"
        ) from error
    if not isinstance(algorithm, Algorithm):
        raise UsageError(f"'{added[name].value}' is not a scheduling algorithm: it lacks `name` or `order`")
    return algorithm
