# SPDX-License-Identifier: Apache-2.0
"""How large the allocations of each container were."""

from __future__ import annotations

from convgpu.core.identity import ContainerId
from convgpu.core.units import GIB, MIB
from convgpu.daemon.sizes import CONTAINERS_KEPT, Sizes
from convgpu.sources.witness import WitnessEvent

ALPHA, BETA = ContainerId(64 * "a"), ContainerId(64 * "b")


def seen(size_bytes, cgroup_id=1, kind="alloc", source="boundary"):
    return WitnessEvent(
        mono_ns=1, cgroup_id=cgroup_id, pid=1, tid=1, comm="x", source=source, api="RM_ALLOC", kind=kind,
        size_bytes=size_bytes, latency_ns=1, device_instance=0,
    )  # fmt: skip


def test_allocations_are_counted_by_container_source_and_power_of_two():
    sizes = Sizes()
    names = {1: ALPHA, 2: BETA, 3: None}
    events = [
        seen(2 * MIB), seen(3 * MIB), seen(4 * MIB - 1), seen(4 * MIB), seen(2 * MIB, source="runtime"),
        seen(GIB, 2), seen(GIB, 3), seen(2 * MIB, kind="free"), seen(2 * MIB, kind="fail"), seen(0, 2), seen(1, 2),
    ]  # fmt: skip
    sizes.note(events[:4], lambda event: names[event.cgroup_id])
    sizes.note(events[4:], lambda event: names[event.cgroup_id])
    assert sizes.of(ALPHA) == {"boundary": {21: 3, 22: 1}, "runtime": {21: 1}}
    assert sizes.of(BETA)["boundary"] == {0: 2, **dict.fromkeys(range(1, 30), 0), 30: 1}
    assert sizes.of(ContainerId(64 * "c")) == {}


def test_a_container_is_looked_for_once_for_each_batch():
    asked = []
    Sizes().note([seen(MIB)] * 1000, lambda event: asked.append(event) or ALPHA)
    assert len(asked) == 1


def test_the_ones_that_allocated_last_are_kept():
    sizes = Sizes()
    for number in range(CONTAINERS_KEPT + 1):
        sizes.note([seen(MIB, number)], lambda event: ContainerId(f"{event.cgroup_id:064x}"))
        sizes.note([seen(MIB)], lambda _: ALPHA)
    assert sizes.of(ALPHA) != {}
    assert sizes.of(ContainerId(f"{0:064x}")) == {}
    assert sizes.of(ContainerId(f"{CONTAINERS_KEPT:064x}")) != {}
