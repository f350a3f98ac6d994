# SPDX-License-Identifier: Apache-2.0
"""Probes on libcuda and libcudart, wherever these are: a shared library or an executable that contains one."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from convgpu.sources.bcc import captured_stderr
from convgpu.sources.bpf_pins import Attacher
from convgpu.sources.elf import ElfError, Function, find_functions
from convgpu.sources.witness import LibraryKind


class BpfLibraries:
    """The files that are watched.

    A probe belongs to an inode: one attachment serves every process that maps the file, in whatever container. The same
    file seen through two overlay mounts has two device numbers and is attached twice; bpf/api.bpf.h says why that
    changes no count.

    Args:
        bpf: The compiled module, a `bcc.BPF`, its programs loaded.
        symbols: The functions to watch in each kind of library.
        attacher: How probes are attached.
    """

    def __init__(self, bpf: Any, symbols: Mapping[LibraryKind, tuple[str, ...]], attacher: Attacher) -> None:
        self._bpf = bpf
        self._attacher = attacher
        self._symbols = symbols
        self._watched: dict[tuple[int, int, LibraryKind], int] = {}
        self.attached: list[str] = []
        self.missing: dict[str, str] = {}

    def attach(self, path: str, kind: LibraryKind) -> bool:
        """Watch a file; the same one again changes nothing.

        Returns:
            Whether at least one of its functions is watched; why not, is in `missing`.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.missing[path] = error.strerror or str(error)
            return False
        watched = False
        try:
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino, kind)
            if identity in self._watched:
                return True
            if not stat.S_ISREG(status.st_mode):
                self.missing[path] = "not a regular file"
                return False
            watched = self._attach_functions(path, kind, descriptor)
            if watched:
                # Held open for as long: the names of the probes contain the descriptor's number.
                self._watched[identity] = descriptor
                self.missing.pop(path, None)
            return watched
        except (ElfError, OSError) as error:
            self.missing[path] = str(error)
            return False
        finally:
            if not watched:
                os.close(descriptor)

    def _attach_functions(self, path: str, kind: LibraryKind, descriptor: int) -> bool:
        found = find_functions(descriptor, self._symbols[kind])
        watched = False
        for symbol in self._symbols[kind]:
            label = f"{path}: {symbol}"
            function = found.get(symbol)
            if function is None:
                self.missing[label] = "not defined in this file (stripped, or imported from another one)"
            elif reason := self._attach_function(function, descriptor):
                self.missing[label] = reason
            else:
                watched = True
                self.missing.pop(label, None)
                self.attached.append(label)
        return watched

    def _attach_function(self, function: Function, descriptor: int) -> str | None:
        # Linux 6.18 warns once when the probed page of an ext4 file is not in the page cache.
        os.pread(descriptor, 1, function.offset)
        # The attacher takes the open file itself, whatever its path means by now.
        with captured_stderr() as printed:
            try:
                # A return probe without its entry finds nothing to do; an entry without its return leaves litter.
                self._attach(f"uretprobe__{function.name}", function, descriptor, at_return=True)
                self._attach(f"uprobe__{function.name}", function, descriptor, at_return=False)
            except Exception as error:  # noqa: BLE001  # bcc raises nothing more precise
                return f"{error} {printed()}".strip()
        return None

    def _attach(self, program: str, function: Function, descriptor: int, *, at_return: bool) -> None:
        loaded = self._bpf.funcs[program.encode()]
        self._attacher.function(function, loaded, descriptor, at_return=at_return)

    def close(self) -> None:
        """Let go of the files; the probes are detached with the module."""
        for descriptor in self._watched.values():
            os.close(descriptor)
        self._watched.clear()
        self.attached.clear()
