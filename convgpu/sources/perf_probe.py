# SPDX-License-Identifier: Apache-2.0
"""A probe at one function that only counts: perf_event_open(2) alone, without BPF, headers or a compiler.

`convgpu doctor` tries with it what the kernel allows, and what a return probe does to a process in a container.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_SYSCALL: Final = {"x86_64": 298, "aarch64": 241}
"""Numbers of perf_event_open."""
_ATTRIBUTES: Final = struct.Struct("=II QQQQQ II QQ")
"""perf_event_attr as of PERF_ATTR_SIZE_VER1: type, size; config, sample period and type, read format, flags; wakeup, \
breakpoint type; config1 (path), config2 (offset)."""
_PMU: Final = "sys/bus/event_source/devices/uprobe"
_FLAG_CLOEXEC: Final = 8
_ALL_PROCESSES: Final = -1
_NO_GROUP: Final = -1
_COUNT: Final = struct.Struct("=Q")


class PerfProbe:
    """Counts how often a function is entered, or returns, in any process; a context manager.

    Args:
        path: The file; the probe is at its inode, whatever a container calls it.
        offset: Where the function's first byte is in the file.
        at_return: Count returns.
        root: Root of the file system, for /sys.

    Raises:
        OSError: The kernel has no uprobes, or this process may not use them.
    """

    def __init__(self, path: Path, offset: int, *, at_return: bool = False, root: Path = Path("/")) -> None:
        self._descriptors: list[int] = []
        name = ctypes.create_string_buffer(os.fsencode(path))  # the kernel reads it while the probe is made
        config = 1 << _return_bit(root) if at_return else 0
        kind = int((root / _PMU / "type").read_text())
        attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, 0, 0, 0, 0, 0, 0, ctypes.addressof(name), offset)
        try:
            for processor in sorted(os.sched_getaffinity(0) | set(range(os.cpu_count() or 1))):
                self._descriptors.append(_perf_event_open(attributes, processor))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def hits(self) -> int:
        """How often it was hit so far."""
        return sum(_COUNT.unpack(os.read(descriptor, _COUNT.size))[0] for descriptor in self._descriptors)

    def close(self) -> None:
        """Take the probe away."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _return_bit(root: Path) -> int:
    """Return which bit of `config` asks for the return, as the kernel documents it: `config:0`."""
    text = (root / _PMU / "format/retprobe").read_text()
    found = re.fullmatch(r"config:(\d+)\s*", text)
    if found is None:
        raise OSError(0, f"the kernel describes return probes as '{text.strip()}'")
    return int(found[1])


def _perf_event_open(attributes: bytes, processor: int) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(0, f"not on {platform.machine()}")
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    descriptor: int = call(
        ctypes.c_long(number), attributes, ctypes.c_int(_ALL_PROCESSES), ctypes.c_int(processor),
        ctypes.c_int(_NO_GROUP), ctypes.c_ulong(_FLAG_CLOEXEC),
    )  # fmt: skip
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor
