# SPDX-License-Identifier: Apache-2.0
"""Probes on libcuda and libcudart, wherever these are: a shared library or an executable that contains one."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from convgpu.sources.bcc import captured_stderr
from convgpu.sources.bpf_pins import Attacher, Attachment
from convgpu.sources.container_file import open_file
from convgpu.sources.elf import ElfError, Function, find_functions
from convgpu.sources.procfs import PROC
from convgpu.sources.witness import LibraryKind

LINGER_S: Final = 600.0
"""A runtime stays watched for so long after its last process: the next one's first call is then seen from its start."""


@dataclass(slots=True)
class _Watched:
    path: str
    used_at_s: float
    labels: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)


class BpfLibraries:
    """The files that are watched.

    A probe belongs to an inode: one attachment serves every process that maps the file, in whatever container. The file
    is looked up where it really lies (container_file.py), so a file of an image layer is attached once. Where that is
    not found, one file seen through two mounts is attached twice; bpf/api.bpf.h says why that changes no count.

    Args:
        bpf: The compiled module, a `bcc.BPF`, its programs loaded.
        symbols: The functions to watch in each kind of library; without the first, it is no such library.
        attacher: How probes are attached.
        proc: Where procfs is mounted.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        bpf: Any,
        symbols: Mapping[LibraryKind, tuple[str, ...]],
        attacher: Attacher,
        *,
        proc: Path = PROC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bpf = bpf
        self._attacher = attacher
        self._symbols = symbols
        self._proc = proc
        self._clock = clock
        self._watched: dict[tuple[int, int, LibraryKind], _Watched] = {}
        self.missing: dict[str, str] = {}

    @property
    def attached(self) -> list[str]:
        """The functions that are watched, each with its file."""
        return [label for watched in self._watched.values() for label in watched.labels]

    def attach(self, path: str, kind: LibraryKind) -> bool:
        """Watch a file; the same one again changes nothing.

        Returns:
            Whether at least one of its functions is watched; why not, is in `missing`.
        """
        try:
            opened = open_file(path, self._proc)
        except OSError as error:
            self.missing[path] = error.strerror or str(error)
            return False
        try:
            status = os.fstat(opened.descriptor)
            identity = (status.st_dev, status.st_ino, kind)
            if identity in self._watched:
                self._watched[identity].used_at_s = self._clock()
                return True
            if not stat.S_ISREG(status.st_mode):
                self.missing[path] = "not a regular file"
                return False
            watched = self._attach_functions(opened.path, kind, opened.descriptor)
            if watched is None:
                return False
            # The probes hold the inode, so its numbers cannot become another file's.
            self._watched[identity] = watched
            self.missing.pop(path, None)
            return True
        except (ElfError, OSError) as error:
            self.missing[path] = str(error)
            return False
        finally:
            os.close(opened.descriptor)

    def _attach_functions(self, path: str, kind: LibraryKind, descriptor: int) -> _Watched | None:
        symbols = self._symbols[kind]
        found = find_functions(descriptor, symbols)
        watched = _Watched(path, self._clock())
        seen: set[int] = set()
        if symbols[0] not in found:
            # An older library lacks calls that came later, and that is no defect; without this one it is no library.
            self.missing[f"{path}: {symbols[0]}"] = "not defined in this file (stripped, or imported from another one)"
        with captured_stderr() as printed:
            for symbol in symbols:
                function = found.get(symbol)
                if function is None or function.offset in seen:
                    continue  # two names of one place: one probe, under the first
                seen.add(function.offset)
                try:
                    watched.attachments += self._attach_function(function, descriptor)
                except Exception as error:  # noqa: BLE001  # bcc raises nothing more precise
                    self.missing[f"{path}: {symbol}"] = f"{error} {printed()}".strip()
                    continue
                self.missing.pop(f"{path}: {symbol}", None)
                watched.labels.append(f"{path}: {symbol}")
        return watched if watched.labels else None

    def _attach_function(self, function: Function, descriptor: int) -> list[Attachment]:
        # Linux 6.18 warns once when the probed page of an ext4 file is not in the page cache.
        os.pread(descriptor, 1, function.offset)
        # A return probe without its entry finds nothing to do; an entry without its return leaves litter.
        at_return = self._attach(f"uretprobe__{function.name}", function, descriptor, at_return=True)
        try:
            return [at_return, self._attach(f"uprobe__{function.name}", function, descriptor, at_return=False)]
        except Exception:
            at_return.detach()
            raise

    def _attach(self, program: str, function: Function, descriptor: int, *, at_return: bool) -> Attachment:
        loaded = self._bpf.funcs[program.encode()]
        return self._attacher.function(function, loaded, descriptor, at_return=at_return)

    def release_unused(self, mapped: Iterable[str]) -> list[str]:
        """Give back runtimes that nobody has mapped for `LINGER_S`; the driver's library is never given back."""
        now_s = self._clock()
        in_use: set[tuple[int, int]] = set()
        for path in mapped:
            try:
                opened = open_file(path, self._proc)
            except OSError:
                continue
            status = os.fstat(opened.descriptor)
            os.close(opened.descriptor)
            in_use.add((status.st_dev, status.st_ino))
        released = []
        for identity, watched in list(self._watched.items()):
            if identity[:2] in in_use or identity[2] == "libcuda":
                watched.used_at_s = now_s
            elif now_s - watched.used_at_s >= LINGER_S:
                for attachment in watched.attachments:
                    attachment.detach()
                del self._watched[identity]
                released.append(watched.path)
        return released

    def forget(self, pids: Iterable[int]) -> None:
        """Drop what was missing in processes that have ended."""
        gone = tuple(f"{self._proc}/{pid}/" for pid in pids)
        for path in [path for path in self.missing if path.startswith(gone)]:
            del self.missing[path]

    def close(self) -> None:
        """Let go of the files; pinned probes stay."""
        self._watched.clear()
        self._attacher.close()
