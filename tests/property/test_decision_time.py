# SPDX-License-Identifier: Apache-2.0
"""How long a decision takes with 1,000 containers and 10,000 waiting requests. Prints figures (run with -s); the bound
is a hundred times the target, so that it only catches a wrong order of growth on a busy machine."""

from __future__ import annotations

import random
import time

import pytest

from convgpu.core.algorithms import Fifo
from convgpu.core.decision import Granted, Suspended
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.quota import Quota
from convgpu.core.request import Request

MIB = 1024 * 1024
LIMIT = 100 * MIB


def crowded(containers: int, gpus: list[GpuUuid], guarantee: int) -> tuple[Engine, list[ProcessKey], random.Random]:
    """Every container holds a part, and wants more than there is."""
    engine = Engine(dict.fromkeys(gpus, containers * LIMIT // 2), Fifo())
    rng = random.Random(7)
    processes = []
    for number in range(containers):
        name = ContainerId(f"{number:064x}")
        engine.start_container(name, number, {gpu: Quota(LIMIT, guarantee) for gpu in gpus})
        processes.append(ProcessKey(number + 1, 1))
        engine.start_process(processes[-1], name)
    waiting = number = 0
    while waiting < 10 * containers:
        waiting += ask(engine, processes, rng, gpus, number)
        number += 1
    return engine, processes, rng


def ask(engine: Engine, processes: list[ProcessKey], rng: random.Random, gpus: list[GpuUuid], number: int) -> int:
    """Ask for a little; return how many more wait now."""
    index = rng.randrange(len(processes))
    size = rng.randint(1, 8) * MIB
    process = processes[index]
    gpu = rng.choice(gpus)
    request = Request(number, process, ContainerId(f"{index:064x}"), gpu, size, True, False, number, "cuMemAlloc_v2")
    decisions = engine.request(request, number)
    resumed = sum(isinstance(decision, Granted) and decision.resumed for decision in decisions)
    return isinstance(decisions[0], Suspended) - resumed


@pytest.mark.parametrize(
    ("containers", "devices", "guarantee"), [(1000, 1, LIMIT), (1000, 1, LIMIT // 4), (200, 2, LIMIT // 4)]
)
def test_decision_time(containers: int, devices: int, guarantee: int, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = [GpuUuid(f"GPU-{number}") for number in range(devices)]
    engine, processes, rng = crowded(containers, gpus, guarantee)
    events: list[float] = []
    decided = 0
    for number in range(1_000_000, 1_000_400):
        before = time.perf_counter()
        ask(engine, processes, rng, gpus, number)
        events.append(time.perf_counter() - before)
        index = rng.randrange(len(processes))
        gpu = rng.choice(gpus)
        held = engine.held(processes[index], gpu)
        if held:
            before = time.perf_counter()
            decided += len(engine.release(processes[index], gpu, min(held, 4 * MIB), number))
            events.append(time.perf_counter() - before)
    events.sort()
    p99_ms = events[len(events) * 99 // 100] * 1e3
    waiting = sum(len(engine.queue(gpu)) for gpu in gpus)
    with capsys.disabled():
        print(
            f"\n{containers} containers, {waiting} waiting, {devices} device(s), guarantee {guarantee // MIB} MiB of "
            f"{LIMIT // MIB} MiB: {len(events)} events, {decided} resumed, "
            f"median {events[len(events) // 2] * 1e6:.0f} us, p99 {p99_ms:.2f} ms"
        )
    assert p99_ms < 100
