# SPDX-License-Identifier: Apache-2.0
"""How much of a device may be assigned."""

from __future__ import annotations

import pytest

from convgpu.core.units import GIB
from convgpu.daemon import capacity
from convgpu.daemon.config import DaemonConfig
from convgpu.errors import UsageError
from convgpu.testing.gpus import FakeGpuSource, make_gpu


def capacities(source: FakeGpuSource, guarded: set[int] | None = None, **settings: object) -> list[int]:
    config = DaemonConfig(**settings)  # type: ignore[arg-type]
    return list(capacity.of_devices(config, source.gpus(), source.read(), guarded or set()).values())


def test_what_others_hold_and_the_reserve_are_not_ours() -> None:
    assert capacities(FakeGpuSource(others_bytes=GIB), reserve_bytes=GIB // 2) == [10 * GIB - GIB - GIB // 2]


def test_what_guarded_processes_hold_is_ours() -> None:
    gpu = make_gpu()
    source = FakeGpuSource(process_bytes={gpu.uuid: {5: 3 * GIB, 6: GIB}})
    assert capacities(source, guarded={5}) == [9 * GIB]


@pytest.mark.parametrize("name", ["*", "0", make_gpu().uuid])
def test_a_configured_capacity_holds_as_it_is(name: str) -> None:
    assert capacities(FakeGpuSource(others_bytes=GIB), capacities={name: 4 * GIB}) == [4 * GIB]


def test_the_most_exact_name_wins() -> None:
    both = {"*": 4 * GIB, "1": 2 * GIB}
    assert capacities(FakeGpuSource(devices=(make_gpu(0), make_gpu(1))), capacities=both) == [4 * GIB, 2 * GIB]


@pytest.mark.parametrize("wrong", [{"7": GIB}, {"GPU-typo": GIB}, {"0": 11 * GIB}])
def test_a_device_that_is_not_there_or_too_small_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        capacities(FakeGpuSource(), capacities=wrong)
