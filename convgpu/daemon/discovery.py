# SPDX-License-Identifier: Apache-2.0
"""Finds the CUDA libraries that processes have mapped, and lets the witness watch them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from convgpu.sources import libraries, procfs, simgpu
from convgpu.sources.bpf_libraries import CATCH_S
from convgpu.sources.container_file import open_file
from convgpu.sources.procfs import PROC
from convgpu.sources.witness import LibraryKind, Witness


class Mapped(NamedTuple):
    """A library that a process has mapped; `device` and `inode` name the real file."""

    path: str
    kind: LibraryKind
    device: int
    inode: int


class Discovery:
    """What was found in which process. `find` and `is_settled` may be used anywhere, the rest in the witness's thread.

    Args:
        proc: Where procfs is mounted.
        clock: Seconds, monotonic.
    """

    def __init__(self, proc: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._unseen: dict[int, str] = {}
        self._since_s: dict[tuple[int, int, LibraryKind], float] = {}

    def find(self, pid: int) -> list[Mapped]:
        """Return what one process has mapped."""
        paths: list[tuple[Path, LibraryKind]] = [(path, "libcuda") for path in libraries.driver_of(pid, self._proc)]
        paths += [(path, "libcudart") for path in libraries.runtimes_of(pid, self._proc)]
        found = []
        for path, kind in paths:
            try:
                opened = open_file(str(path), self._proc)
            except OSError:
                continue  # the process ended meanwhile, and its view of the file system with it
            status = os.fstat(opened.descriptor)
            os.close(opened.descriptor)
            found.append(Mapped(str(path), kind, status.st_dev, status.st_ino))
        return found

    def is_settled(self, found: Iterable[Mapped]) -> bool:
        """Tell whether all of it has been watched for so long that no call can have begun before that.

        Hundreds of processes may begin at once: then none of them waits for the witness's thread in vain.
        """
        known = {each.kind for each in found}
        settled_s = self._clock() - CATCH_S
        return known == {"libcuda", "libcudart"} and all(
            self._since_s.get((each.device, each.inode, each.kind), self._clock()) < settled_s for each in found
        )

    def watch(self, witness: Witness, pid: int, found: Iterable[Mapped]) -> list[str]:
        """Watch what one process has mapped.

        Returns:
            The runtimes among it that are watched.
        """
        runtimes = []
        has_driver = False
        for each in found:
            has_driver |= each.kind == "libcuda"
            if witness.attach_library(each.path, each.kind):
                self._since_s.setdefault((each.device, each.inode, each.kind), self._clock())
                if each.kind == "libcudart":
                    runtimes.append(each.path)
        if has_driver and not runtimes:
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
                self.watch(witness, pid, self.find(pid))

    def scan(self, witness: Witness) -> None:
        """Look again at the processes that use the driver, and give back runtimes that none of them has mapped."""
        mapped: list[str] = []
        known = set(witness.processes())
        for pid in known:
            mapped += self.watch(witness, pid, self.find(pid))
        self.forget([pid for pid in self._unseen if pid not in known])
        if witness.release_unused(mapped):
            self._since_s.clear()  # whoever still has one of them mapped is looked at again

    def unseen(self) -> tuple[str, ...]:
        """Return which processes use a runtime that cannot be watched."""
        return tuple(self._unseen.values())

    def forget(self, pids: Iterable[int]) -> None:
        """Drop what is remembered of processes that have ended."""
        for pid in pids:
            self._unseen.pop(pid, None)


def known_libraries(*, simulated: bool) -> list[tuple[str, str]]:
    """Return the libraries that can be watched from the start; others are found as processes map them."""
    if simulated:
        return [
            (str(simgpu.library_file("libcuda.so.1")), "libcuda"),
            (str(simgpu.library_file("libcudart.so.13")), "libcudart"),
        ]
    driver = libraries.find_driver()
    return [(str(driver), "libcuda")] if driver is not None else []
