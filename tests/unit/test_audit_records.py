# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from convgpu.audit.builder import build_record, check_fields
from convgpu.audit.chain import GENESIS
from convgpu.audit.clock import ClockWatch, SystemClock, format_timestamp
from convgpu.audit.fields import COMMON_FIELDS, EVENT_FIELDS, Kind
from convgpu.audit.records import RECORD_TYPES

CONTAINER = {"id": "c" * 64, "name": "alpha", "image": "pytorch"}
PROCESS = {"pid": 4711, "start_ticks": 99, "comm": "python", "uid": 1000}
GPU = {"id": "GPU-0", "index": 0}
GRANTED: dict[str, Any] = {
    "container": CONTAINER,
    "process": PROCESS,
    "gpu": GPU,
    "size_bytes": 2 * 2**20,
    "waited_ns": 0,
    "limit_bytes": 2**30,
}

EXAMPLES: dict[Kind, object] = {
    Kind.INTEGER: 7,
    Kind.BOOLEAN: True,
    Kind.STRING: "word",
    Kind.STRINGS: ["a", "b"],
    Kind.TEXT_MAP: {"a": "b"},
    Kind.COUNT_MAP: {"21": 3},
}
OBJECTS: dict[str, object] = {
    "container": CONTAINER,
    "process": PROCESS,
    "gpu": GPU,
    "gpus": [GPU],
    "processes": [PROCESS],
    "limits": [{"group": "lab", "gpu": GPU["id"], "index": 0, "limit_bytes": 7, "old_limit_bytes": None}],
}


class StoppedClock:
    boot_id = "00000000-0000-0000-0000-000000000000"

    def wall_ns(self) -> int:
        return 1_769_860_800_000_000_001

    def monotonic_ns(self) -> int:
        return 5


def example(names: frozenset[str]) -> dict[str, object]:
    return {name: OBJECTS.get(name) or EXAMPLES[EVENT_FIELDS[name].kind] for name in names}


def test_every_record_has_time_boot_and_place_in_the_chain() -> None:
    _, record = build_record("decision.granted", GRANTED, msg=None, seq=3, prev=GENESIS, clock=StoppedClock())
    assert record == GRANTED | {
        "v": 1,
        "seq": 3,
        "ts": "2026-01-31T12:00:00.000000001Z",
        "mono_ns": 5,
        "boot_id": "00000000-0000-0000-0000-000000000000",
        "type": "decision.granted",
        "msg": "alpha was granted 2MiB on GPU 0, for python[4711]",
        "prev": GENESIS,
    }
    assert record.keys() | {"hash"} >= COMMON_FIELDS.keys()


def test_a_caller_may_say_more_than_the_type_does() -> None:
    _, record = build_record("daemon.stop", {}, msg="stops for an upgrade", seq=1, prev=GENESIS, clock=StoppedClock())
    assert record["msg"] == "stops for an upgrade"


@pytest.mark.parametrize("name", RECORD_TYPES)
def test_every_type_can_be_written_with_the_least_and_the_most(name: str) -> None:
    record_type = RECORD_TYPES[name]
    for fields in (example(record_type.required), example(record_type.required | record_type.optional)):
        _, record = build_record(name, fields, msg=None, seq=1, prev=GENESIS, clock=StoppedClock())
        assert isinstance(record["msg"], str)
        assert record["msg"]
    for left_out in record_type.required:
        with pytest.raises(ValueError, match=f"lacks {left_out}"):
            check_fields(name, example(record_type.required - {left_out}))


def test_the_definition_holds_together() -> None:
    used = {name for record_type in RECORD_TYPES.values() for name in record_type.required | record_type.optional}
    assert used == EVENT_FIELDS.keys(), "every field is defined once, and no defined field is idle"
    assert not used & COMMON_FIELDS.keys()
    assert all(not record_type.required & record_type.optional for record_type in RECORD_TYPES.values())


def test_decisions_limits_and_losses_are_durable() -> None:
    late = {name for name, record_type in RECORD_TYPES.items() if not record_type.durable}
    events = {"process.seen", "process.gone", "decision.withdrawn", "credit.reclaimed", "snapshot"}
    assert late == events | {"witness.alloc", "witness.free", "witness.summary"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_bytes": 2.0}, "size_bytes must be integer"),
        ({"size_bytes": True}, "size_bytes must be integer"),
        ({"size_bytes": "2"}, "size_bytes must be integer"),
        ({"size_bytes": None}, "size_bytes may not be null"),
        ({"size_byte": 2}, "has no field 'size_byte'"),
        ({"seq": 2}, "has no field 'seq'"),
        ({"container": {"id": "c", "nam": "x"}}, "container has no field 'nam'"),
        ({"container": {"name": "x"}}, "container lacks id"),
        ({"process": {"pid": 1.5, "start_ticks": 1}}, "process.pid must be integer"),
        ({"forced": 1}, "forced must be boolean"),
        ({"gpu": "GPU-0"}, "gpu must be object"),
    ],
)
def test_what_is_not_defined_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fields("decision.granted", GRANTED | changes)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'decision.maybe' is not a record type; known: daemon.start"):
        check_fields("decision.maybe", GRANTED)


def test_not_known_is_null_and_never_zero() -> None:
    figures = dict.fromkeys(("limit_bytes", "used_bytes", "witness_bytes", "nvml_bytes"))
    check_fields("snapshot", {"container": {"id": "c"}, "gpu": {"id": "GPU-0"}, **figures})


def test_timestamps_have_all_nine_digits() -> None:
    assert format_timestamp(0) == "1970-01-01T00:00:00.000000000Z"
    assert format_timestamp(1_769_860_799_999_999_999) == "2026-01-31T11:59:59.999999999Z"


class SetClock(StoppedClock):
    def __init__(self) -> None:
        self.wall = self.mono = 0

    def wall_ns(self) -> int:
        return self.wall

    def monotonic_ns(self) -> int:
        return self.mono


def test_a_clock_that_is_set_is_noticed_once_and_one_that_is_slewed_never() -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    clock.wall = clock.mono = 10**9
    assert watch.jump_ns() is None
    clock.wall += 3600 * 10**9
    assert watch.jump_ns() == 3600 * 10**9
    assert watch.jump_ns() is None
    clock.wall -= 2 * 10**9
    assert watch.jump_ns() == -2 * 10**9
    for _ in range(1000):
        clock.mono += 10**9
        clock.wall += 10**9 + 500_000
        assert watch.jump_ns() is None


def test_the_system_clock_is_the_one_of_the_kernel_side() -> None:
    clock = SystemClock()
    assert len(clock.boot_id) == 36
    first = clock.monotonic_ns()
    assert 0 < first <= clock.monotonic_ns()
