# SPDX-License-Identifier: Apache-2.0
"""Checks of what the eBPF witness needs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from convgpu.doctor.finding import Machine, Verdict
from convgpu.errors import EnvironmentMissingError
from convgpu.native import native_dir
from convgpu.sources.bcc import load_bcc
from convgpu.sources.ebpf import BpfWitness
from convgpu.sources.headers import ensure_headers

_TRACING: Final = ("sys/kernel/tracing/events", "sys/kernel/debug/tracing/events")
_TRACEPOINTS: Final = ("syscalls/sys_enter_ioctl", "syscalls/sys_exit_ioctl", "sched/sched_process_exit")
_TEMPORARY: Final = "convgpu-doctor-"
_NO_WITNESS: Final = "without it the daemon runs with `--probes off` alone"


def tracefs(machine: Machine) -> Verdict:
    """Look for the tracing file system, where a tracepoint's number is read."""
    for name in _TRACING:
        if (machine.root / name).is_dir():
            return Verdict("ok", f"mounted at /{Path(name).parent}")
    if (machine.root / "sys/kernel/tracing").is_dir():
        return Verdict(
            "warn",
            "not mounted; the daemon mounts it when it starts",
            "run `sudo mount -t tracefs tracefs /sys/kernel/tracing` to have it now",
        )
    return Verdict("fail", "this kernel has no tracing file system", "use a kernel with CONFIG_FTRACE")


def tracepoints(machine: Machine) -> Verdict:
    """Try to open the tracepoints that the witness attaches to."""
    folder = next((machine.root / name for name in _TRACING if (machine.root / name).is_dir()), None)
    if folder is None:
        return Verdict("skip", "cannot be looked at while tracefs is not mounted")
    unreadable = []
    for name in _TRACEPOINTS:
        try:
            (folder / name / "id").read_text()
        except OSError as error:
            unreadable.append(f"{name} ({error.strerror})")
    if unreadable:
        return Verdict(
            "fail",
            f"cannot be opened: {', '.join(unreadable)}",
            "run as root; where they do not exist, use a kernel with CONFIG_FTRACE_SYSCALLS",
        )
    return Verdict("ok", ", ".join(_TRACEPOINTS))


def bcc(_: Machine) -> Verdict:
    """Try to load the distribution's bcc."""
    try:
        module = load_bcc()
    except EnvironmentMissingError as error:
        return Verdict("fail", f"{error.message}; {_NO_WITNESS}", error.advice)
    version = getattr(module, "__version__", None) or "of unknown version"
    return Verdict("ok", f"{version}, {Path(module.__file__ or '').parent}")


def headers(machine: Machine) -> Verdict:
    """Look for kernel headers that bcc can compile with."""
    running = (machine.read("proc/sys/kernel/osrelease") or "").strip()
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY) as cache:
        try:
            choice = ensure_headers(running, Path(cache), root=machine.root)
        except EnvironmentMissingError as error:
            return Verdict("fail", error.message, error.advice)
    where = "the kernel's own archive (kheaders)" if choice.path is None else choice.release
    if choice.exact:
        return Verdict("ok", f"{where}, the running kernel's")
    return Verdict("ok", f"{where}, for the running {running}: good enough, no kernel structure is read")


def programs(_: Machine) -> Verdict:
    """Do what the daemon does: compile the witness's programs, load and attach them; then take them away again."""
    if os.geteuid() != 0:
        return Verdict("skip", "to load programs into the kernel needs root", "run `sudo convgpu doctor`")
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY) as cache:
        try:
            witness = BpfWitness(native_dir() / "bpf", cache_dir=Path(cache))
            try:
                witness.start()
                status = witness.status()
            finally:
                witness.close()
        except EnvironmentMissingError as error:
            return Verdict("fail", error.message, error.advice)
    if not status.running:
        return Verdict(
            "fail", f"they load, but do not run: {status.reason}", "see the findings above; else please report this"
        )
    attached = f"{len(status.attached)} probes attached"
    if status.missing:
        return Verdict(
            "warn",
            f"{attached}; missing: {', '.join(status.missing)}",
            "limits hold without them, and the balances that the others keep are exact; a newer kernel may have them",
        )
    return Verdict("ok", attached)
