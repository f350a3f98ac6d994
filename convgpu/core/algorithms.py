# SPDX-License-Identifier: Apache-2.0
"""Who is next among the suspended containers: the Protocol, the algorithms that come with ConvGPU, and the loader.

An algorithm only ranks. Whether a candidate may be served, and with how much, is the engine's business (limits,
safety, `max_bypass`), so no algorithm can break an invariant. A package adds one through the entry point group
`convgpu.algorithms`; the entry point names a callable without arguments that returns an `Algorithm`:

    class SmallestLimit(Algorithm):
        name = "smallest-limit"

        def key(self, candidate: Candidate) -> int:
            return candidate.limit_bytes

Three of the six that are here would scatter what is free over all that wait, a part for each, so that nobody can run:
`recent-use`, `random` and `fair` complete those first that have a part (docs/decisions/0009).

The definitions of the six are in `docs/scheduling.md`. The names of the four classic ones come from the
paper of 2017; its exact tie-breaking was not available, so ours is stated there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import groupby
from random import Random
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.units import format_size
from convgpu.errors import UsageError

ENTRY_POINT_GROUP: Final = "convgpu.algorithms"

_SHARE_SCALE_BITS: Final = 80
"""Two different shares of limits below 2^40 bytes (1 TiB) differ by more than 2^-80, so none are taken for equal."""


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
        idle_bytes: What of that it does not use: a part of what it waits for, which nobody has any good of until it
            gets the rest.
    """

    container: ContainerId
    created_ns: int
    priority: int
    need_bytes: int
    suspended_since_ns: int
    limit_bytes: int
    assigned_bytes: int
    idle_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """What an algorithm may know beside the candidates.

    Attributes:
        free_bytes: What could be assigned on the device now.
        turn: How often something of the device was given away before; with the seed, the source of all chance.
        seed: As configured and logged; the same events with the same seed give the same decisions.
    """

    gpu: GpuUuid
    free_bytes: int
    turn: int = 0
    seed: int = 0


@runtime_checkable
class Algorithm(Protocol):
    """Ranks the candidates of one device; to be inherited from.

    Both methods are pure functions of their arguments: they are also called to show the queue. The engine serves the
    first candidate that may be given something, and then asks again.
    """

    name: str
    """The name on the command line and in the log."""

    def key(self, candidate: Candidate) -> Any:
        """Return what candidates are kept sorted by, the lowest first; ties go to the one created first, then by id."""
        del candidate
        return 0

    def order(self, line: Sequence[Candidate], situation: Situation) -> Iterable[Candidate]:
        """Return every candidate once, the next one first. `line` is sorted by `key`; only what is asked for is used.

        To be overridden where the order depends on the situation.
        """
        del situation
        return line

    def reason(self, candidate: Candidate) -> str:
        """Say in a few words what gives a candidate its place, for people."""
        del candidate
        return f"as {self.name} ranks it"


class Fifo(Algorithm):
    """The container created first."""

    name = "fifo"

    def reason(self, candidate: Candidate) -> str:
        """By creation."""
        del candidate
        return "in order of creation"


class BestFit(Algorithm):
    """The largest need that fits into what is free; if none fits, the smallest need."""

    name = "best-fit"

    def key(self, candidate: Candidate) -> int:
        """Sort by need."""
        return candidate.need_bytes

    def order(self, line: Sequence[Candidate], situation: Situation) -> Iterator[Candidate]:
        """Return those that fit from the largest on, then those that do not from the smallest on."""
        fitting = bisect_left(line, situation.free_bytes + 1, key=self.key)
        for _, equal in groupby((line[place] for place in range(fitting - 1, -1, -1)), key=self.key):
            yield from reversed(tuple(equal))
        yield from (line[place] for place in range(fitting, len(line)))

    def reason(self, candidate: Candidate) -> str:
        """By need."""
        return f"lacks {format_size(candidate.need_bytes)}; the largest that fits goes first"


class RecentUse(Algorithm):
    """The container whose suspension began last; of those that have a part of what they wait for, if there are any."""

    name = "recent-use"

    def key(self, candidate: Candidate) -> tuple[bool, int]:
        """Sort by the beginning of the suspension, the latest first."""
        return (not candidate.idle_bytes, -candidate.suspended_since_ns)

    def reason(self, candidate: Candidate) -> str:
        """By the beginning of the suspension."""
        del candidate
        return "the one that began to wait last goes first"


class Uniform(Algorithm):
    """Any container with the same probability, drawn anew; of those that have a part of what they wait for, if any."""

    name = "random"

    def key(self, candidate: Candidate) -> bool:
        """Sort those that have a part to the front."""
        return not candidate.idle_bytes

    def order(self, line: Sequence[Candidate], situation: Situation) -> Iterator[Candidate]:
        """Return a random order, drawn from the seed, the device and the turn: asked twice, it is the same."""
        chance = Random(f"{situation.seed}/{situation.gpu}/{situation.turn}")  # noqa: S311  # fairness, no secret
        first_without = bisect_left(line, 1, key=self.key)
        for group in (line[:first_without], line[first_without:]):
            rest = list(group)
            while rest:
                drawn = chance.randrange(len(rest))
                rest[drawn], rest[-1] = rest[-1], rest[drawn]
                yield rest.pop()

    def reason(self, candidate: Candidate) -> str:
        """By chance."""
        del candidate
        return "drawn by chance, and drawn anew when something is given away"


class Priority(Algorithm):
    """The highest declared priority."""

    name = "priority"

    def key(self, candidate: Candidate) -> int:
        """Sort by priority, the highest first."""
        return -candidate.priority

    def reason(self, candidate: Candidate) -> str:
        """By priority."""
        return f"priority {candidate.priority}"


class Fair(Algorithm):
    """The lowest share of its own limit that is assigned; of those that have a part of what they wait for, if any."""

    name = "fair"

    def key(self, candidate: Candidate) -> tuple[bool, int]:
        """Sort by assigned / limit, in integers."""
        share = (candidate.assigned_bytes << _SHARE_SCALE_BITS) // candidate.limit_bytes
        return (not candidate.idle_bytes, share)

    def reason(self, candidate: Candidate) -> str:
        """By share."""
        share = 100 * candidate.assigned_bytes / candidate.limit_bytes
        return f"has {share:.0f} % of its limit; the smallest share goes first"


OWN_ALGORITHMS: Final[Mapping[str, Callable[[], Algorithm]]] = MappingProxyType(
    {made.name: made for made in (Fifo, BestFit, RecentUse, Uniform, Priority, Fair)}
)
"""The algorithms that are always there, by name."""


def known_algorithms() -> tuple[str, ...]:
    """Return the names of all algorithms: ours in the order of the documentation, then what packages add."""
    added = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return (*OWN_ALGORITHMS, *sorted(added - OWN_ALGORITHMS.keys()))


def load_algorithm(name: str) -> Algorithm:
    """Make the algorithm of this name: one of ours, or one that an installed package adds.

    Raises:
        UsageError: No such algorithm (the message names the known ones), or it cannot be loaded.
    """
    if name in OWN_ALGORITHMS:
        return OWN_ALGORITHMS[name]()
    added = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in added:
        known = ", ".join(known_algorithms())
        raise UsageError(f"'{name}' is not a scheduling algorithm; known: {known}")
    try:
        algorithm = added[name].load()()
    except Exception as error:  # whatever a foreign package raises, the person must learn which one
        raise UsageError(
            f"the scheduling algorithm '{name}' ({added[name].value}) cannot be loaded: {error}"
        ) from error
    if not isinstance(algorithm, Algorithm):
        raise UsageError(f"'{added[name].value}' is not a scheduling algorithm: it lacks `name`, `key` or `order`")
    return algorithm
