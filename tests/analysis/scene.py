# SPDX-License-Identifier: Apache-2.0
"""A log of two containers whose every figure can be told by hand: 100 seconds, one device of 10 GiB.

alpha  limit 4 GiB   0 to 100 s: holds 1 GiB from 10 s, 4 GiB from 50 s; gone at 100 s
beta   limit 8 GiB  20 to 100 s: asks for 7 GiB at 30 s, waits, has them at 70 s; is denied 9 GiB at 80 s; runs on
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "simulation"))  # the maker of logs for tests
from logs import ACCOUNT, GPU, SECOND, WALL_NS, Log

from convgpu.core.units import GIB

__all__ = ["ALPHA", "BETA", "GPU", "SECOND", "WALL_NS", "Log", "at", "scene"]

ALPHA = {"id": "a" * 64, "name": "alpha", "image": "pytorch"}
BETA = {"id": "b" * 64, "name": "beta", "image": "secret-image"}


def at(seconds: float) -> int:
    """Return a time of the log as nanoseconds since 1970."""
    return WALL_NS + int(seconds * SECOND)


def process(container: dict[str, str]) -> dict[str, Any]:
    number = 7 if container is ALPHA else 8
    return {"container": container, "process": {"pid": number, "start_ticks": 70, "comm": "python3", "uid": 1000}}


def scene() -> Log:
    alpha, beta = process(ALPHA), process(BETA)
    log = Log()
    log.start(simulated=False, safe=True)
    log.container(0, ALPHA, **ACCOUNT | {"limit_bytes": 4 * GIB}, source="label")
    log.process(1, **alpha)
    log.decide(10, "granted", "1", GIB, **alpha, used_bytes=0, limit_bytes=4 * GIB)
    log.container(20, BETA, **ACCOUNT | {"limit_bytes": 8 * GIB}, source="label")
    log.process(21, **beta)
    log.decide(30, "suspended", "2", 7 * GIB, **beta, used_bytes=0, limit_bytes=8 * GIB)
    log.decide(50, "granted", "3", 3 * GIB, **alpha, used_bytes=GIB, limit_bytes=4 * GIB)
    log.add(60, "note", text="half way: alpha is large", by_uid=1000, container=ALPHA)
    log.decide(70, "resumed", "2", 7 * GIB, **beta, waited_ns=40 * SECOND, arrived_ns=30 * SECOND, used_bytes=0)
    log.decide(80, "denied", "4", 9 * GIB, **beta, reason="limit", used_bytes=7 * GIB, limit_bytes=8 * GIB)
    log.add(90, "loss", reason="witness: ring full", count=3)
    log.process(100, "process.gone", **alpha, used_bytes=4 * GIB)
    log.add(100, "container.gone", container=ALPHA, exit_code=0)
    return log
