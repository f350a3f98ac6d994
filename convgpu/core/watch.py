# SPDX-License-Identifier: Apache-2.0
"""From what looks wrong at one look to what is wrong: a suspicion that lasts is a finding, until it is gone."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, NamedTuple

from convgpu.core.findings import FindingKind, Suspicion
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey

LASTING_NS: Final = 500_000_000
"""A suspicion must be there so long. NVML, witness and page are read within some 10 ms, and on an H200 the three agreed
at every stage of a test program without waiting (docs/results); fifty times that is for a machine under load."""
FEWEST_LOOKS: Final = 3
CLEAR_NS: Final = 1_000_000_000
"""A finding must be gone so long: one that comes and goes is one finding, not one a second."""
LOOK_AGAIN_S: Final = 0.2
"""Between two looks while something is not decided. With an interval of 1 s a finding is thus raised within
1 + 0.6 s of its cause, and the looks themselves."""


class FindingKey(NamedTuple):
    """What makes two suspicions the same one."""

    container: ContainerId | None
    gpu: GpuUuid
    kind: FindingKind


@dataclass(frozen=True, slots=True)
class Raised:
    """A finding begins."""

    key: FindingKey
    suspicion: Suspicion


@dataclass(frozen=True, slots=True)
class Cleared:
    """A finding ends; `suspicion` is the last that was seen of it, `lasted_ns` how long it was one."""

    key: FindingKey
    suspicion: Suspicion
    reason: str
    lasted_ns: int


@dataclass(slots=True)
class _Case:
    suspicion: Suspicion
    first_ns: int
    looks: int = 0
    raised_ns: int | None = None
    absent_ns: int | None = None


def _key(suspicion: Suspicion) -> FindingKey:
    return FindingKey(suspicion.container, suspicion.gpu, suspicion.kind)


class Watch:
    """Keeps the cases.

    A page that its owner changed once is not believed again: `tampered` lasts as long as one of those processes lives.
    """

    def __init__(self) -> None:
        self._cases: dict[FindingKey, _Case] = {}

    @property
    def findings(self) -> dict[FindingKey, Suspicion]:
        """What is raised now, with the figures of the last look that showed it."""
        return {key: case.suspicion for key, case in self._cases.items() if case.raised_ns is not None}

    @property
    def undecided(self) -> bool:
        """Whether another look is wanted soon."""
        return any(case.raised_ns is None or case.absent_ns is not None for case in self._cases.values())

    def note(self, seen: Iterable[Suspicion], alive: AbstractSet[ProcessKey], now_ns: int) -> list[Raised | Cleared]:
        """Take one look in.

        Args:
            seen: All that looks wrong now.
            alive: The processes that run.
            now_ns: When, monotonic nanoseconds.
        """
        changes: list[Raised | Cleared] = []
        present = {_key(suspicion): suspicion for suspicion in seen}
        for key, suspicion in present.items():
            case = self._cases.setdefault(key, _Case(suspicion, now_ns))
            case.suspicion = suspicion
            case.looks += 1
            case.absent_ns = None
            if case.raised_ns is None and case.looks >= FEWEST_LOOKS and now_ns - case.first_ns >= LASTING_NS:
                case.raised_ns = now_ns
                changes.append(Raised(key, suspicion))
        for key in self._cases.keys() - present.keys():
            change = self._absent(key, alive, now_ns)
            if change is not None:
                changes.append(change)
        return changes

    def _absent(self, key: FindingKey, alive: AbstractSet[ProcessKey], now_ns: int) -> Cleared | None:
        case = self._cases[key]
        if case.raised_ns is None:
            del self._cases[key]
            return None
        living = not alive.isdisjoint(case.suspicion.processes)
        if key.kind is FindingKind.TAMPERED and living:
            return None
        if case.absent_ns is None:
            case.absent_ns = now_ns
        if now_ns - case.absent_ns < CLEAR_NS:
            return None
        reason = "the figures agree again" if living else "its processes have ended"
        return self._clear(key, reason if key.container is not None else "there is enough again", now_ns)

    def catch(self, suspicion: Suspicion, now_ns: int) -> Raised | None:
        """Raise at once what needs no second look; None: it is raised already."""
        key = _key(suspicion)
        case = self._cases.setdefault(key, _Case(suspicion, now_ns))
        if case.raised_ns is not None:
            return None
        case.raised_ns = now_ns
        return Raised(key, suspicion)

    def forget(self, container: ContainerId, now_ns: int) -> list[Cleared]:
        """A container is gone, and all that was found about it."""
        changes = []
        for key in [key for key in self._cases if key.container == container]:
            if self._cases[key].raised_ns is None:
                del self._cases[key]
            else:
                changes.append(self._clear(key, "the container has ended", now_ns))
        return changes

    def _clear(self, key: FindingKey, reason: str, now_ns: int) -> Cleared:
        case = self._cases.pop(key)
        return Cleared(key, case.suspicion, reason, now_ns - (case.raised_ns or now_ns))
