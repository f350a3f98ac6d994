# SPDX-License-Identifier: Apache-2.0
"""Checks of what the kernel can do and lets us do, each by doing it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import tempfile
from collections.abc import Callable
from typing import Final

from convgpu.doctor.finding import Machine, Verdict
from convgpu.doctor.trial import trial_function, trial_program
from convgpu.errors import EnvironmentMissingError
from convgpu.native import native_dir
from convgpu.sources.perf_probe import PerfProbe

_BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE: Final = 0
_BPF_MAP_TYPE_RINGBUF: Final = 27
_MAP_ATTRIBUTES: Final = struct.Struct("=IIII")
"""The first fields of bpf_attr for BPF_MAP_CREATE: type, key size, value size, entries; the others may be left out."""
_RING_BYTES: Final = 1 << 16
"""At least a page, of 64 KiB on some arm64 kernels, and a power of two."""
_FLOCK: Final = struct.Struct("hhlli4x")
_F_OFD_SETLK: Final = 37


def features(machine: Machine) -> Verdict:
    """Do, once, each thing that the daemon asks of the kernel: a configuration may lack what a version promises."""
    tried: tuple[tuple[str, Callable[[], None], str], ...] = (
        ("BPF ring buffer", _make_ring_buffer, "use a kernel from 5.8 on with CONFIG_BPF_SYSCALL, as root"),
        ("probe at a function", lambda: _probe(machine, at_return=False), "use a kernel with CONFIG_UPROBE_EVENTS"),
        ("probe at its return", lambda: _probe(machine, at_return=True), "use a kernel with CONFIG_UPROBE_EVENTS"),
        ("pidfd", lambda: os.close(os.pidfd_open(os.getpid())), "use a kernel from 5.3 on"),
        ("lock of an open file", _lock_open_file, "use a local file system for /tmp"),
    )
    lacking = []
    fix = None
    for name, attempt, remedy in tried:
        try:
            attempt()
        except EnvironmentMissingError as error:
            return Verdict("fail", error.message, error.advice)
        except OSError as error:
            lacking.append(f"{name} ({error.strerror or error})")
            fix = fix or ("run `sudo convgpu doctor`" if error.errno in (errno.EPERM, errno.EACCES) else remedy)
    if lacking and os.geteuid() != 0:
        return Verdict("skip", f"could not be tried without root: {', '.join(lacking)}", "run `sudo convgpu doctor`")
    if lacking:
        return Verdict("fail", f"the kernel refuses: {', '.join(lacking)}", fix)
    return Verdict("ok", f"tried: {', '.join(name for name, _, _ in tried)}")


def lockdown(machine: Machine) -> Verdict:
    """Look whether the kernel keeps even root from reading what BPF reads."""
    text = machine.read("sys/kernel/security/lockdown")
    if text is None:
        return Verdict("ok", "this kernel has none")
    mode = text.partition("[")[2].partition("]")[0] or "unknown"
    if mode == "confidentiality":
        return Verdict(
            "fail",
            "confidentiality: BPF programs may not read memory, so the witness sees nothing",
            "boot with lockdown=integrity, or run the daemon with `--probes off`",
        )
    return Verdict("ok", mode)


def _make_ring_buffer() -> None:
    number = _BPF_SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"not on {platform.machine()}")
    attributes = _MAP_ATTRIBUTES.pack(_BPF_MAP_TYPE_RINGBUF, 0, 0, _RING_BYTES)
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    descriptor = call(
        ctypes.c_long(number), ctypes.c_int(_BPF_MAP_CREATE), attributes, ctypes.c_uint(_MAP_ATTRIBUTES.size)
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(descriptor)


def _probe(machine: Machine, *, at_return: bool) -> None:
    program = trial_program(native_dir())
    PerfProbe(program, trial_function(program).offset, at_return=at_return, root=machine.root).close()


def _lock_open_file() -> None:
    with tempfile.TemporaryFile() as file:
        fcntl.fcntl(file, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
