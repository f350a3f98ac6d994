# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from convgpu.core import algorithms
from convgpu.core.algorithms import Algorithm, Candidate, Fifo, load_algorithm
from convgpu.core.identity import ContainerId
from convgpu.errors import UsageError


def candidate(name: str, created_ns: int, **more: int) -> Candidate:
    numbers = {"priority": 0, "need_bytes": 1, "suspended_since_ns": 0, "limit_bytes": 9, "assigned_bytes": 1} | more
    return Candidate(container=ContainerId(name), created_ns=created_ns, **numbers)


class NewestFirst:
    """What a researcher would write."""

    name = "newest-first"

    def order(self, candidates: Sequence[Candidate], free_bytes: int) -> Sequence[Candidate]:
        return sorted(candidates, key=lambda each: -each.created_ns)


def add_entry_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    added = EntryPoints(EntryPoint(name, value, algorithms.ENTRY_POINT_GROUP) for name, value in values.items())
    monkeypatch.setattr(algorithms, "entry_points", lambda group: added.select(group=group))


def test_fifo_goes_by_creation_then_id_and_by_nothing_else() -> None:
    late = candidate("a", 3, priority=9, need_bytes=1)
    tie_b, tie_a = candidate("b", 2, suspended_since_ns=1), candidate("a2", 2, suspended_since_ns=5)
    early = candidate("z", 1, need_bytes=8)
    assert list(Fifo().order([late, tie_b, early, tie_a], 4)) == [early, tie_a, tie_b, late]


def test_fifo_is_there_without_any_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_points(monkeypatch)
    algorithm = load_algorithm("fifo")
    assert isinstance(algorithm, Algorithm)
    assert algorithm.name == "fifo"


def test_an_installed_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "NewestFirst", NewestFirst, raising=False)
    add_entry_points(monkeypatch, **{"newest-first": "convgpu.core.algorithms:NewestFirst"})
    first, second = candidate("a", 1), candidate("b", 2)
    assert list(load_algorithm("newest-first").order([first, second], 1)) == [second, first]


def test_an_unknown_name_is_answered_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_points(monkeypatch, mine="some.package:Mine")
    with pytest.raises(UsageError, match="'fifa' is not a scheduling algorithm; known: fifo, mine"):
        load_algorithm("fifa")


@pytest.mark.parametrize("value", ["no.such.package:Thing", "convgpu.core.units:parse_size", "convgpu.core.units:GIB"])
def test_one_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    add_entry_points(monkeypatch, mine=value)
    with pytest.raises(UsageError, match="mine"):
        load_algorithm("mine")


def test_one_that_is_no_algorithm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_points(monkeypatch, mine="builtins:dict")
    with pytest.raises(UsageError, match=r"'builtins:dict' is not a scheduling algorithm"):
        load_algorithm("mine")
