# SPDX-License-Identifier: Apache-2.0
"""How much of a device may be assigned."""

from __future__ import annotations

import pytest

from convgpu.config.keys import DaemonConfig
from convgpu.core.amount import Amount
from convgpu.core.units import GIB, MIB
from convgpu.daemon.capacity import Capacities, Held
from convgpu.daemon.outside import Holding
from convgpu.errors import ConfigError
from convgpu.testing.gpus import FakeGpuSource, make_gpu

GPU = make_gpu().uuid
S = 1_000_000_000


def of(source: FakeGpuSource, held: Held | None = None, **settings: object) -> Capacities:
    return Capacities(DaemonConfig(**settings), source.gpus(), [(source.read(), held or {})])  # type: ignore[arg-type]


def capacities(source: FakeGpuSource, held: Held | None = None, **settings: object) -> list[int]:
    return list(of(source, held, **settings).in_force.values())


def test_what_others_hold_and_the_reserve_are_not_ours() -> None:
    assert capacities(FakeGpuSource(others_bytes=GIB), reserve=Amount(GIB // 2)) == [10 * GIB - GIB - GIB // 2]


def test_a_reserve_can_be_a_share_of_the_device() -> None:
    assert capacities(FakeGpuSource(others_bytes=GIB), reserve=Amount(share_ppm=100_000)) == [8 * GIB]


def test_what_guarded_processes_hold_is_ours() -> None:
    source = FakeGpuSource(process_bytes={GPU: {5: 3 * GIB, 6: GIB}})
    assert capacities(source, {GPU: [Holding(5, 3 * GIB, 0)]}) == [9 * GIB]


def test_of_two_looks_at_the_start_the_smaller_counts() -> None:
    looks = [(FakeGpuSource(others_bytes=size).read(), {}) for size in (3 * GIB, GIB)]
    assert list(Capacities(DaemonConfig(), (make_gpu(),), looks).in_force.values()) == [9 * GIB]


@pytest.mark.parametrize("name", [None, "0", GPU])
def test_a_configured_capacity_holds_as_it_is(name: str | None) -> None:
    own = {"capacity": Amount(4 * GIB)}
    settings = own if name is None else {"devices": {name: own}}
    capacity = of(FakeGpuSource(others_bytes=GIB), reserve=Amount(GIB), **settings)
    assert list(capacity.in_force.values()) == [4 * GIB]
    others = FakeGpuSource(others_bytes=8 * GIB).read()
    assert [capacity.note(others, {}, second * S) for second in range(4)] == [[]] * 4
    assert capacity.external(GPU) == 8 * GIB, "it is shown all the same"


def test_a_configured_capacity_can_be_a_share_of_the_device() -> None:
    assert capacities(FakeGpuSource(), capacity=Amount(share_ppm=500_000)) == [5 * GIB]


def test_the_most_exact_name_wins() -> None:
    two = FakeGpuSource(devices=(make_gpu(0), make_gpu(1), make_gpu(2)))
    devices = {
        "1": {"capacity": Amount(2 * GIB)},
        "2": {"capacity": Amount(2 * GIB)},
        make_gpu(2).uuid: {"capacity": Amount(GIB)},
    }
    assert capacities(two, capacity=Amount(4 * GIB), devices=devices) == [4 * GIB, 2 * GIB, GIB]


def test_devices_that_are_not_there_and_capacities_they_do_not_have_are_all_named() -> None:
    devices = {"7": {"reserve": Amount(GIB)}, "GPU-typo": {"safe": False}, "0": {"capacity": Amount(11 * GIB)}}
    with pytest.raises(ConfigError) as caught:
        capacities(FakeGpuSource(), devices=devices)
    lines = caught.value.message.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "a capacity of 11GiB is more than GPU 0 has (10GiB)",
        "there is no GPU '7' to set anything for",
        "there is no GPU 'GPU-typo' to set anything for",
    ]
    assert f"there are: 0 ({GPU})" in lines[1]


def test_what_others_take_and_give_back_moves_the_capacity_and_is_told_once() -> None:
    capacity = of(FakeGpuSource(others_bytes=GIB))
    more = FakeGpuSource(others_bytes=3 * GIB).read()
    told = [capacity.note(more, {}, second * S) for second in range(5)]
    assert [len(changes) for changes in told] == [0, 0, 1, 0, 0]
    (change,) = told[2]
    assert (change.old_bytes, change.new_bytes, change.external_bytes) == (9 * GIB, 7 * GIB, 3 * GIB)
    assert change.reason == "external"
    assert capacity.in_force == {GPU: 7 * GIB}


def test_other_settings_change_the_capacity_at_once() -> None:
    capacity = of(FakeGpuSource(others_bytes=GIB))
    (change,) = capacity.configure(DaemonConfig(reserve=Amount(512 * MIB)))
    assert (change.old_bytes, change.new_bytes, change.reason) == (9 * GIB, 9 * GIB - 512 * MIB, "configuration")
    assert capacity.configure(DaemonConfig(reserve=Amount(512 * MIB))) == []


def test_a_device_whose_use_nvml_does_not_tell_is_taken_as_empty_until_it_does() -> None:
    source = FakeGpuSource(used_is_known=False)
    capacity = of(source)
    assert (capacity.in_force, capacity.external(GPU)) == ({GPU: 10 * GIB}, None)
    (change,) = capacity.note(FakeGpuSource(others_bytes=GIB).read(), {}, 0)
    assert change.new_bytes == 9 * GIB
