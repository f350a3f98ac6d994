# SPDX-License-Identifier: Apache-2.0
"""The system calls that attach a loaded program, which bcc cannot all make: perf_event_open(2) and bpf(2).

A function in a file can be watched in two ways. A *perf event* with a program on it: one of them is the entry, another
the return; Linux 5.15 makes a link of it that can be pinned. A *multi link* (Linux 6.6) calls the program without the
event between; as a *session* (Linux 6.13) one link is entry and return.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

from convgpu.sources.elf import Function
from convgpu.sources.tracefs import ensure_tracefs

UPROBE_UNIT: Final = Path("/sys/bus/event_source/devices/uprobe")

ATTACH_UPROBE_MULTI: Final = 48  # linux/bpf.h, enum bpf_attach_type
ATTACH_UPROBE_SESSION: Final = 57
_ATTACH_PERF_EVENT: Final = 41
_BPF_OBJ_PIN: Final = 6  # linux/bpf.h, enum bpf_cmd
_BPF_OBJ_GET_INFO_BY_FD: Final = 15
_BPF_LINK_CREATE: Final = 28
_BPF_ENABLE_STATS: Final = 32
_BPF_STATS_RUN_TIME: Final = 0
_UPROBE_MULTI_RETURN: Final = 1  # BPF_F_UPROBE_MULTI_RETURN
_PERF_TYPE_TRACEPOINT: Final = 2  # linux/perf_event.h, enum perf_type_id
_PERF_FLAG_FD_CLOEXEC: Final = 8
_PERF_EVENT_IOC_ENABLE: Final = 0x2400
_PERF_EVENT_IOC_SET_BPF: Final = 0x40042408
_PERF_ATTRIBUTE: Final = struct.Struct("<IIQQQQQIIQQ40x")
"""struct perf_event_attr, 112 bytes: type, size, config, five fields left 0, then config1 and config2."""
_LINK_ATTRIBUTE: Final = struct.Struct("<IIII48x")
_MULTI_ATTRIBUTE: Final = struct.Struct("<IIIIQQQQIII4x")
"""union bpf_attr, link_create.uprobe_multi: program, target, type, flags; path, offsets, counters, cookies, number."""
_PIN_ATTRIBUTE: Final = struct.Struct("<QII48x")
_INFO_ATTRIBUTE: Final = struct.Struct("<IIQ48x")
_PROGRAM_INFO_BYTES: Final = 232
_PROGRAM_RUNS: Final = struct.Struct("<QQ")
_PROGRAM_RUNS_AT: Final = 192
"""struct bpf_prog_info: run_time_ns and run_cnt."""

SYSTEM_CALLS: Final[dict[str, tuple[int, int]]] = {"x86_64": (321, 298), "aarch64": (280, 241)}
"""Numbers of bpf and perf_event_open; the C library has no functions for them."""


class ProgramRuns(NamedTuple):
    """How often a program ran while statistics were on, and how long that took in all."""

    time_ns: int
    runs: int


class BpfKernel:
    """System calls for a machine in `SYSTEM_CALLS`. All raise OSError; descriptors are the caller's to close."""

    def __init__(self) -> None:
        self._bpf_number, self._perf_number = SYSTEM_CALLS[platform.machine()]
        self._libc = ctypes.CDLL(None, use_errno=True)

    def tracepoint_event(self, name: str) -> int:
        """Return a descriptor of a tracepoint's event."""
        number = int((ensure_tracefs() / "events" / name.replace(":", "/") / "id").read_text())
        return self._event(_PERF_TYPE_TRACEPOINT, number)

    def function_event(self, function: Function, descriptor: int, *, at_return: bool) -> int:
        """Return a descriptor of an event at the entry or return of a function in an open file."""
        return_bit = int((UPROBE_UNIT / "format" / "retprobe").read_text().strip().removeprefix("config:"))
        path = ctypes.create_string_buffer(f"/proc/self/fd/{descriptor}".encode())
        return self._event(
            int((UPROBE_UNIT / "type").read_text()),
            (1 << return_bit) if at_return else 0,
            ctypes.addressof(path),
            function.offset,
        )

    def _event(self, event_type: int, config: int, config1: int = 0, config2: int = 0) -> int:
        attribute = ctypes.create_string_buffer(
            _PERF_ATTRIBUTE.pack(event_type, _PERF_ATTRIBUTE.size, config, 0, 0, 0, 0, 0, 0, config1, config2)
        )
        return self._call(
            self._perf_number,
            attribute,
            ctypes.c_int(-1),  # every process
            ctypes.c_int(0),  # such events are not bound to a processor; one must be named
            ctypes.c_int(-1),
            ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC),
        )

    def run_at(self, event: int, program_fd: int) -> None:
        """Let a program run at an event for as long as its descriptor is open."""
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program_fd)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)

    def event_link(self, event: int, program_fd: int) -> int:
        """Return a link that lets a program run at an event; it holds the event."""
        return self._bpf(_BPF_LINK_CREATE, _LINK_ATTRIBUTE.pack(program_fd, event, _ATTACH_PERF_EVENT, 0))

    def multi_link(
        self, function: Function, descriptor: int, program_fd: int, *, at_return: bool = False, session: bool = False
    ) -> int:
        """Return a link that lets a program run at a function in an open file; it holds the file's inode.

        Args:
            function: Where.
            descriptor: The file.
            program_fd: Loaded for this kind of attachment: `ATTACH_UPROBE_MULTI` or `ATTACH_UPROBE_SESSION`.
            at_return: At the return, not the entry; not for a session, which is both.
            session: As a session.
        """
        path = ctypes.create_string_buffer(f"/proc/self/fd/{descriptor}".encode())
        offset = ctypes.c_uint64(function.offset)
        attribute = _MULTI_ATTRIBUTE.pack(
            program_fd,
            0,
            ATTACH_UPROBE_SESSION if session else ATTACH_UPROBE_MULTI,
            0,
            ctypes.addressof(path),
            ctypes.addressof(offset),
            0,
            0,
            1,
            _UPROBE_MULTI_RETURN if at_return else 0,
            0,  # every process
        )
        return self._bpf(_BPF_LINK_CREATE, attribute)

    def pin(self, descriptor: int, path: Path) -> None:
        """Keep a link for as long as a file of a bpf file system is there."""
        name = ctypes.create_string_buffer(str(path).encode())
        self._bpf(_BPF_OBJ_PIN, _PIN_ATTRIBUTE.pack(ctypes.addressof(name), descriptor, 0))

    def count_runs(self) -> int:
        """Have the kernel count runs of all programs for as long as the returned descriptor is open (Linux 5.8)."""
        return self._bpf(_BPF_ENABLE_STATS, struct.pack("<I60x", _BPF_STATS_RUN_TIME))

    def runs(self, program_fd: int) -> ProgramRuns:
        """Return what was counted of a program."""
        info = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
        self._bpf(
            _BPF_OBJ_GET_INFO_BY_FD, _INFO_ATTRIBUTE.pack(program_fd, _PROGRAM_INFO_BYTES, ctypes.addressof(info))
        )
        return ProgramRuns(*_PROGRAM_RUNS.unpack_from(info, _PROGRAM_RUNS_AT))

    def _bpf(self, command: int, attribute: bytes) -> int:
        raw = ctypes.create_string_buffer(attribute)
        return self._call(self._bpf_number, ctypes.c_int(command), raw, ctypes.c_uint(len(attribute)))

    def _call(self, number: int, *arguments: Any) -> int:
        result: int = self._libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result
