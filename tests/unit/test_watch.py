# SPDX-License-Identifier: Apache-2.0
"""What lasts is a finding: when one begins, when it ends, and when another look is wanted."""

from __future__ import annotations

from convgpu.core.findings import FindingKind, Suspicion
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.watch import Cleared, FindingKey, Raised, Watch

ALPHA, BETA, GPU = ContainerId("a" * 64), ContainerId("b" * 64), GpuUuid("GPU-0")
KEY = ProcessKey(4711, 99)
MS = 1_000_000


def suspicion(kind: FindingKind = FindingKind.BYPASS, container: ContainerId = ALPHA, reason: str = "so") -> Suspicion:
    return Suspicion(kind=kind, container=container, gpu=GPU, reason=reason, processes=(KEY,))


def looks(watch: Watch, at_ms: list[int], *seen: Suspicion, alive: bool = True) -> list[Raised | Cleared]:
    return [change for moment in at_ms for change in watch.note(seen, {KEY} if alive else set(), moment * MS)]


def test_a_finding_is_one_when_it_has_lasted_in_looks_and_in_time() -> None:
    watch = Watch()
    assert looks(watch, [0, 499], suspicion()) == []
    assert looks(watch, [500], suspicion()) == [Raised(FindingKey(ALPHA, GPU, FindingKind.BYPASS), suspicion())]
    assert looks(watch, [600, 5000], suspicion()) == []
    short = Watch()
    assert looks(short, [0, 100, 200, 300, 400], suspicion()) == []
    rare = Watch()
    assert looks(rare, [0, 5000], suspicion()) == []
    assert len(looks(rare, [10000], suspicion())) == 1


def test_what_comes_and_goes_begins_anew() -> None:
    watch = Watch()
    for start in range(0, 10000, 500):
        assert looks(watch, [start, start + 200, start + 400], suspicion()) == []
        assert looks(watch, [start + 450]) == []


def test_a_finding_ends_when_it_was_gone_for_a_second() -> None:
    watch = Watch()
    looks(watch, [0, 200, 600], suspicion())
    assert looks(watch, [700, 1699]) == []
    looks(watch, [1700], suspicion(reason="again"))
    assert looks(watch, [1800, 2700]) == []
    (cleared,) = looks(watch, [2800])
    assert isinstance(cleared, Cleared)
    assert (cleared.reason, cleared.lasted_ns) == ("the figures agree again", 2200 * MS)
    assert cleared.suspicion.reason == "again"
    assert watch.findings == {}


def test_tampering_lasts_as_long_as_the_process() -> None:
    watch = Watch()
    looks(watch, [0, 200, 600], suspicion(FindingKind.TAMPERED))
    assert looks(watch, [700, 100_000]) == []
    (cleared,) = looks(watch, [100_100, 101_100], alive=False)
    assert isinstance(cleared, Cleared)
    assert cleared.reason == "its processes have ended"


def test_what_needs_no_second_look_is_raised_once() -> None:
    watch = Watch()
    assert watch.catch(suspicion(FindingKind.TAMPERED), 0) is not None
    assert watch.catch(suspicion(FindingKind.TAMPERED), 1) is None
    assert looks(watch, [0, 300, 600, 900], suspicion(FindingKind.TAMPERED)) == []
    assert len(watch.findings) == 1


def test_another_look_is_wanted_while_something_begins_or_ends() -> None:
    watch = Watch()
    assert not watch.undecided
    looks(watch, [0], suspicion())
    assert watch.undecided
    looks(watch, [300, 600], suspicion())
    assert not watch.undecided
    looks(watch, [700])
    assert watch.undecided
    looks(watch, [1700])
    assert not watch.undecided


def test_a_container_that_is_gone_takes_its_findings_with_it_and_no_others() -> None:
    watch = Watch()
    looks(watch, [0, 300, 600], suspicion(), suspicion(container=BETA))
    looks(watch, [700], suspicion(), suspicion(FindingKind.MISMATCH), suspicion(container=BETA))
    (cleared,) = watch.forget(ALPHA, 800 * MS)
    assert (cleared.key.container, cleared.reason) == (ALPHA, "the container has ended")
    assert [key.container for key in watch.findings] == [BETA]
    assert not watch.undecided
