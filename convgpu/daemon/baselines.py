# SPDX-License-Identifier: Apache-2.0
"""What processes held when the witness came: measured once by NVML, and marked as such."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from convgpu.core.identity import GpuUuid
from convgpu.sources import procfs
from convgpu.sources.nvml import GpuReading
from convgpu.sources.procfs import PROC


class Baselines:
    """Bytes by process and device that NVML had and the witness had not, at its first look.

    Only processes that are older than the witness have any. What such a process frees is not seen to be of that memory,
    so its baseline can only shrink: to what NVML has beyond what was witnessed since. Memory that it takes past the
    witness does not enlarge it, and shows as a difference like anybody's.

    Args:
        proc: Where procfs is mounted.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._since_ns = 0
        self._measured = False
        self._bytes: dict[tuple[int, GpuUuid], int] = {}
        self._ticks: dict[int, int] = {}

    def begin(self) -> None:
        """The witness is attached: what started before it, it does not know."""
        self._since_ns = time.monotonic_ns()
        self._measured = False
        self._bytes.clear()
        self._ticks.clear()

    def look(
        self, readings: Iterable[GpuReading], witnessed: Mapping[tuple[int, GpuUuid], int]
    ) -> Mapping[tuple[int, GpuUuid], int]:
        """Return what is to be added to the witness's figures, by process and device."""
        for reading in readings:
            for pid, size_bytes in reading.process_bytes.items():
                if size_bytes is None:
                    continue
                key = (pid, reading.uuid)
                beyond_bytes = max(0, size_bytes - witnessed.get(key, 0))
                if not self._measured and beyond_bytes and procfs.ran_at(pid, self._since_ns, self._proc):
                    self._begin_process(key, beyond_bytes)
                elif key in self._bytes:
                    self._bytes[key] = min(self._bytes[key], beyond_bytes)
        self._measured = True
        for key in [key for key in self._bytes if not self._is_same(key[0])]:
            del self._bytes[key]
        return self._bytes

    def _begin_process(self, key: tuple[int, GpuUuid], size_bytes: int) -> None:
        try:
            self._ticks[key[0]] = procfs.start_ticks(key[0], self._proc)
        except procfs.ProcessGoneError:
            return
        self._bytes[key] = size_bytes

    def _is_same(self, pid: int) -> bool:
        try:
            return procfs.start_ticks(pid, self._proc) == self._ticks[pid]
        except procfs.ProcessGoneError:
            return False
