# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from convgpu.core import algorithms
from convgpu.core.algorithms import Algorithm, Candidate, Fair, Situation, load_algorithm
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.errors import UsageError


def candidate(name: str, created_ns: int, **more: int) -> Candidate:
    numbers = {"priority": 0, "need_bytes": 1, "suspended_since_ns": 0, "limit_bytes": 9, "assigned_bytes": 1} | more
    return Candidate(container=ContainerId(name), created_ns=created_ns, **numbers)


class NewestFirst(Algorithm):
    """What a researcher would write."""

    name = "newest-first"

    def key(self, candidate: Candidate) -> int:
        return -candidate.created_ns


def add_entry_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    added = EntryPoints(EntryPoint(name, value, algorithms.ENTRY_POINT_GROUP) for name, value in values.items())
    monkeypatch.setattr(algorithms, "entry_points", lambda group: added.select(group=group))


# name: created, priority, need, suspended since, limit, assigned
TABLE = {
    "a": (40, 0, 3, 50, 10, 5),
    "b": (10, 2, 5, 90, 10, 2),
    "c": (20, 2, 3, 70, 20, 4),
    "d": (30, 1, 8, 90, 40, 20),
    "e": (30, 0, 8, 60, 10, 5),
    "f": (50, 1, 5, 50, 50, 10),
}
HAVE_A_PART = {"e", "f"}  # these are completed first where an algorithm would else scatter what is free
# algorithm and free bytes: the order, with the reason of every tie
ORDERS = [
    ("fifo", 5, "bcdeaf"),  # d and e were created together: by id
    ("best-fit", 4, "cabfde"),  # 3 fits: c was created before a; then the smallest that do not: 5, then 8
    ("best-fit", 5, "bfcade"),  # 5 and 3 fit, the largest first: b before f, c before a
    ("best-fit", 9, "debfca"),  # all fit
    ("best-fit", 2, "cabfde"),  # none fits: the smallest need first
    ("recent-use", 5, "bdceaf"),  # b and d at 90: b was created first; a and f at 50
    ("priority", 5, "bcdfea"),  # 2: b, c; 1: d, f; 0: e, a
    ("fair", 5, "bcfdea"),  # 2/10 = 4/20 = 10/50 by creation; 20/40 = 5/10 = 5/10: d, e, a
]


def ordered(name: str, free: int, turn: int = 0, seed: int = 0, *, parts: Collection[str] = ()) -> str:
    """What an algorithm makes of the table, given as the engine gives it: sorted by key, creation and id."""
    fields = ("created_ns", "priority", "need_bytes", "suspended_since_ns", "limit_bytes", "assigned_bytes")
    candidates = [
        Candidate(container=ContainerId(key), **dict(zip(fields, row, strict=True)), idle_bytes=int(key in parts))
        for key, row in TABLE.items()
    ]
    algorithm = load_algorithm(name)
    line = sorted(candidates, key=lambda each: (algorithm.key(each), each.created_ns, each.container))
    situation = Situation(GpuUuid("GPU-0"), free, turn, seed)
    return "".join(candidate.container for candidate in algorithm.order(line, situation))


@pytest.mark.parametrize(("name", "free", "expected"), ORDERS)
def test_order_and_ties(name: str, free: int, expected: str) -> None:
    assert ordered(name, free) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fifo", "bcdeaf"),
        ("best-fit", "bfcade"),
        ("recent-use", "efbdca"),
        ("priority", "bcdfea"),
        ("fair", "febcda"),
    ],
)
def test_who_has_a_part_is_completed_first_where_parts_would_be_scattered(name: str, expected: str) -> None:
    assert ordered(name, 5, parts=HAVE_A_PART) == expected


def test_chance_too_completes_first_who_has_a_part() -> None:
    drawn = {ordered("random", 5, turn=turn, parts=HAVE_A_PART) for turn in range(50)}
    assert {order[:2] for order in drawn} == {"ef", "fe"}
    assert len({order[2:] for order in drawn}) > 10


def test_fair_compares_shares_exactly() -> None:
    huge = 2**40
    more = candidate("a", 1, assigned_bytes=huge // 2, limit_bytes=huge)
    less = candidate("b", 2, assigned_bytes=huge // 2 - 1, limit_bytes=huge - 1)
    assert Fair().key(less) < Fair().key(more)


def test_random_is_drawn_from_seed_and_turn_and_every_order_comes_up() -> None:
    assert ordered("random", 5, turn=3, seed=1) == ordered("random", 5, turn=3, seed=1)
    firsts = [ordered("random", 5, turn=turn, seed=1)[0] for turn in range(600)]
    assert all(70 < firsts.count(name) < 130 for name in TABLE), "100 of 600 each, within 3.3 standard deviations"
    assert firsts != [ordered("random", 5, turn=turn, seed=2)[0] for turn in range(600)]
    assert all(sorted(ordered("random", 5, turn=turn)) == sorted(TABLE) for turn in range(20)), "nobody left out"


@pytest.mark.parametrize("name", ["fifo", "best-fit", "recent-use", "random", "priority", "fair"])
def test_ours_are_there_without_any_installed_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    add_entry_points(monkeypatch)
    algorithm = load_algorithm(name)
    assert isinstance(algorithm, Algorithm)
    assert algorithm.name == name


def test_an_installed_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "NewestFirst", NewestFirst, raising=False)
    add_entry_points(monkeypatch, **{"newest-first": "convgpu.core.algorithms:NewestFirst"})
    first, second = candidate("a", 1), candidate("b", 2)
    added = load_algorithm("newest-first")
    assert sorted([first, second], key=added.key) == [second, first]
    assert list(added.order([second, first], Situation(GpuUuid("GPU-0"), 1))) == [second, first]


def test_an_unknown_name_is_answered_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_points(monkeypatch, mine="some.package:Mine")
    with pytest.raises(
        UsageError,
        match="'fifa' is not a scheduling algorithm; known: fifo, best-fit, recent-use, random, priority, fair, mine",
    ):
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
