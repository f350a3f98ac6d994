# SPDX-License-Identifier: Apache-2.0
"""Finds the CUDA libraries that processes have mapped, and lets the witness watch them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from convgpu.sources import libraries, procfs
from convgpu.sources.procfs import PROC
from convgpu.sources.witness import Witness


class Discovery:
    """What was found in which process. Used in the witness's thread only.

    Args:
        proc: Where procfs is mounted.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._unseen: dict[int, str] = {}

    def look_at(self, witness: Witness, pid: int) -> list[str]:
        """Watch what one process has mapped.

        Returns:
            The runtimes that it has mapped, and that are watched.
        """
        drivers = libraries.driver_of(pid, self._proc)
        for path in drivers:
            witness.attach_library(str(path), "libcuda")
        runtimes = [
            str(path)
            for path in libraries.runtimes_of(pid, self._proc)
            if witness.attach_library(str(path), "libcudart")
        ]
        if drivers and not runtimes:
            name = procfs.command_name(pid, self._proc) or "process"
            self._unseen[pid] = (
                f"{name}[{pid}]: maps no CUDA runtime with symbols, so what it asks a runtime for is not seen"
            )
        else:
            self._unseen.pop(pid, None)
        return runtimes

    def look_at_all(self, witness: Witness) -> None:
        """Watch what every process of the machine that has libcuda has mapped: they were there before the witness."""
        for pid in procfs.pids(self._proc):
            if libraries.driver_of(pid, self._proc):
                self.look_at(witness, pid)

    def scan(self, witness: Witness) -> None:
        """Look again at the processes that use the driver, and give back runtimes that none of them has mapped."""
        mapped: list[str] = []
        known = set(witness.processes())
        for pid in known:
            mapped += self.look_at(witness, pid)
        self.forget([pid for pid in self._unseen if pid not in known])
        witness.release_unused(mapped)

    def unseen(self) -> tuple[str, ...]:
        """Return which processes use a runtime that cannot be watched."""
        return tuple(self._unseen.values())

    def forget(self, pids: Iterable[int]) -> None:
        """Drop what is remembered of processes that have ended."""
        for pid in pids:
            self._unseen.pop(pid, None)
