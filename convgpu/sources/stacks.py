# SPDX-License-Identifier: Apache-2.0
"""Makes words of a process's addresses: function and file, or file and offset where the file does not say."""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from convgpu.sources.elf import ElfError
from convgpu.sources.procfs import PROC
from convgpu.sources.symbols import FunctionTable, Place

_FILES_KEPT: Final = 64
_PROCESSES_KEPT: Final = 256


class _Identity(NamedTuple):
    device: str
    inode: str


class _Mapping(NamedTuple):
    begin: int
    end: int
    offset: int
    range: str
    file: _Identity
    path: str


class _File:
    """A mapped file, kept open: its process may end before somebody asks for names, and its path may change.

    It is closed with the last reference, so one that is forgotten while it is read stays open for as long.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    @cached_property
    def table(self) -> FunctionTable | None:
        """Read when first asked for: that of a large library takes a second."""
        try:
            return FunctionTable(self.descriptor)
        except (OSError, ElfError):
            return None

    def place(self, offset: int) -> Place | None:
        """Return the function that holds a byte of the file."""
        try:
            return None if self.table is None else self.table.find(self.descriptor, offset)
        except (OSError, ElfError):
            return None


class Stacks:
    """Names of addresses: `look_at` is quick, and to be called while the process is there; `frames` may take its time.

    Of a process that has ended before it was looked at, nothing is known. One that became another program since the
    call is taken for what it is now. One thread may look while another one asks for names; not two of the same.

    Args:
        proc: Where procfs is mounted.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._processes: dict[int, list[_Mapping]] = {}
        self._files: dict[_Identity, _File] = {}

    def look_at(self, stacks: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Remember what processes have mapped at some addresses now.

        Args:
            stacks: Pids and addresses.
        """
        seen: set[int] = set()
        for pid, addresses in stacks:
            if pid not in seen:
                seen.add(pid)
                self._read_mappings(pid)
            for address in addresses:
                self._open(pid, self._mapping(pid, address))

    def frames(self, pid: int, addresses: Iterable[int]) -> tuple[str, ...]:
        """Return each return address as `function+0x1f (file)`, `file+0x1f2e`, or as it is where there is no more.

        Where the process may execute nothing, a function below kept no frame pointer: the stack ends there.
        """
        if pid not in self._processes:
            return tuple(f"{address:#x} (process gone)" for address in addresses)
        frames: list[str] = []
        for address in addresses:
            mapping = self._mapping(pid, address)
            if mapping is None:
                return tuple(frames) or (f"{address:#x}",)
            frames.append(self._frame(mapping, address))
        return tuple(frames)

    def close(self) -> None:
        """Let go of all files, and forget."""
        self._files.clear()
        self._processes.clear()

    def _read_mappings(self, pid: int) -> None:
        try:
            mappings = list(_mappings(pid, self._proc))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return
        if mappings:  # a process that ends has none any more, and those that it had are remembered
            self._processes[pid] = mappings
        while len(self._processes) > _PROCESSES_KEPT:
            del self._processes[next(iter(self._processes))]

    def _mapping(self, pid: int, address: int) -> _Mapping | None:
        mappings = self._processes.get(pid, [])
        index = bisect_right(mappings, address, key=lambda mapping: mapping.begin) - 1
        return mappings[index] if index >= 0 and address < mappings[index].end else None

    def _open(self, pid: int, mapping: _Mapping | None) -> None:
        if mapping is None or not mapping.path.startswith("/") or mapping.file in self._files:
            return
        try:
            descriptor = _open_mapped(self._proc / str(pid) / "map_files" / mapping.range)
        except OSError:
            return  # the process has ended
        while len(self._files) >= _FILES_KEPT:
            del self._files[next(iter(self._files))]
        self._files[mapping.file] = _File(descriptor)

    def _frame(self, mapping: _Mapping, address: int) -> str:
        name = PurePosixPath(mapping.path).name or "anonymous"
        if not mapping.path.startswith("/"):
            return f"{address:#x} ({name})"
        offset = address - mapping.begin + mapping.offset
        file = self._files.get(mapping.file)
        # A call may be a function's last instruction: what it returns to is the next one's first.
        place = None if file is None else file.place(offset - 1)
        return f"{name}+{offset:#x}" if place is None else f"{place.function}+{place.offset + 1:#x} ({name})"


def _mappings(pid: int, proc: Path) -> Iterator[_Mapping]:
    """Yield what a process may execute, in the order of addresses."""
    for line in (proc / str(pid) / "maps").read_text(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if "x" in fields[1]:
            begin, _, end = fields[0].partition("-")
            path = fields[5].removesuffix(" (deleted)") if len(fields) == 6 else ""
            file = _Identity(fields[3], fields[4])
            yield _Mapping(int(begin, 16), int(end, 16), int(fields[2], 16), fields[0], file, path)


def _open_mapped(link: Path) -> int:
    """Open the very file that is mapped, wherever its path leads by now; a device is not opened at all."""
    place = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(f"{link} is no regular file")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)
