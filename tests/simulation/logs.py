# SPDX-License-Identifier: Apache-2.0
"""Writes audit logs for tests: every record is one that the daemon's own builder lets through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convgpu.audit.builder import build_record
from convgpu.audit.chain import GENESIS, canonical_bytes, join_line, link
from convgpu.core.units import GIB

SECOND = 1_000_000_000
WALL_NS = 1_800_000_000 * SECOND
GPU = {"id": "GPU-0", "index": 0}
CONTAINER = {"id": "c" * 64, "name": "alpha", "image": "image"}
PROCESS = {"pid": 7, "start_ticks": 70, "comm": "program", "uid": 0}
ACCOUNT = {"limit_bytes": 8 * GIB, "guarantee_bytes": 0, "assigned_bytes": 0}


class Log:
    """Records with times in seconds since the machine started; `boot` begins another one a day later."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.boot_id = "boot-1"
        self._boot_wall_ns = WALL_NS
        self._mono_ns = 0
        self._prev = GENESIS

    def wall_ns(self) -> int:
        return self._boot_wall_ns + self._mono_ns

    def monotonic_ns(self) -> int:
        return self._mono_ns

    def boot(self) -> None:
        self.boot_id += "'"
        self._boot_wall_ns += 86_400 * SECOND

    def add(self, at_s: float, record_type: str, **fields: Any) -> Log:
        self._mono_ns = int(at_s * SECOND)
        seq = len(self.lines) + 1
        _, record = build_record(record_type, fields, msg=None, seq=seq, prev=self._prev, clock=self)
        canonical = canonical_bytes(record)
        self._prev = link(self._prev, canonical)
        self.lines.append(join_line(canonical, self._prev))
        return self

    def start(self, at_s: float = 0, **more: Any) -> Log:
        fields = {
            "version": "1",
            "algorithm": "fifo",
            "seed": 3,
            "settings": {"max_bypass": "5", "safe": "true"},
            "gpus": [GPU | {"name": "GPU", "total_bytes": 10 * GIB, "capacity_bytes": 10 * GIB, "turn": 4}],
        }
        return self.add(at_s, "daemon.start", **fields | more)

    def container(self, at_s: float, container: dict[str, str] = CONTAINER, **more: Any) -> Log:
        fields = {
            "container": container,
            "gpu": GPU,
            "created_ns": 5,
            "priority": 2,
            "wait_ns": None,
            "restored": False,
            "passed": 0,
            "queued_ns": None,
        }
        return self.add(at_s, "container.seen", **fields | ACCOUNT | more)

    def process(self, at_s: float, record_type: str = "process.seen", **more: Any) -> Log:
        return self.add(at_s, record_type, **{"container": CONTAINER, "process": PROCESS} | more)

    def decide(self, at_s: float, kind: str, request: str, size_bytes: int, **more: Any) -> Log:
        fields: dict[str, Any] = {
            "container": CONTAINER,
            "process": PROCESS,
            "gpu": GPU,
            "request": request,
            "size_bytes": size_bytes,
            "waitable": True,
            "arrived_ns": int(at_s * SECOND),
            "waited_ns": 0,
        }
        if kind == "suspended":
            fields |= {"need_bytes": 1, "position": 1}
        if kind in ("granted", "resumed"):
            fields["forced"] = False
        return self.add(at_s, f"decision.{kind}", **fields | more)

    def reclaim(self, at_s: float, size_bytes: int) -> Log:
        return self.process(at_s, "credit.reclaimed", gpu=GPU, size_bytes=size_bytes, reason="idle credit")

    def write(self, folder: Path, name: str = "audit.jsonl") -> Path:
        path = folder / name
        path.write_bytes(b"".join(self.lines))
        return path
