# SPDX-License-Identifier: Apache-2.0
"""The witness: eBPF programs in the kernel, loaded through bcc.

It needs nothing of the processes that it watches. The programs and their rules are in `bpf/`; this side compiles and
attaches them, and hands out what their maps and their ring buffer say.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple, get_args

from convgpu.core.status import WitnessStatus
from convgpu.errors import EnvironmentMissingError
from convgpu.sources.bcc import captured_stderr, load_bcc
from convgpu.sources.bpf_events import BpfEvents
from convgpu.sources.bpf_ledger import BpfLedger
from convgpu.sources.bpf_libraries import BpfLibraries
from convgpu.sources.bpf_pins import Attacher, PinnedAttacher, ProcessAttacher, pin_folder, remove_pins
from convgpu.sources.bpf_ring import BpfRing
from convgpu.sources.bpf_source import BpfSource, read_source
from convgpu.sources.bpf_table import Layout
from convgpu.sources.headers import HeaderChoice, ensure_headers
from convgpu.sources.tracefs import ensure_tracefs, field_offset
from convgpu.sources.witness import LibraryKind, Newcomer, WitnessBalance, WitnessEvent, WitnessLatency

DEFAULT_CACHE_DIR: Final = Path("/var/cache/convgpu/headers")

_OLDEST_KERNEL: Final = (5, 8)
"""The first with BPF ring buffers."""
_HOST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the kernel: the pid namespace whose pids BPF reports."""


class _Tracepoint(NamedTuple):
    name: str
    required: bool
    without: str


_TRACEPOINTS: Final = (
    _Tracepoint("syscalls:sys_enter_ioctl", True, "physical bytes cannot be seen"),
    _Tracepoint("syscalls:sys_exit_ioctl", True, "physical bytes cannot be seen"),
    _Tracepoint("sched:sched_process_exit", False, "the end of a process is not told"),
    _Tracepoint("sched:sched_process_exec", False, "what a process held before exec counts until it ends"),
    _Tracepoint("sched:sched_process_fork", False, "a pid that comes again within a second inherits an account"),
)


def kernel_version(release: str) -> tuple[int, int]:
    """Return major and minor number of a kernel release."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def return_probes_are_safe(release: str, machine: str) -> bool:
    """Tell whether return probes leave processes under a seccomp filter alive.

    On x86-64, kernels 6.11 to 6.13 serve them by a system call of its own, `uretprobe`. A filter that predates it, and
    Docker's is one, refuses that call, and the process dies (systemd issue 34615).
    """
    return machine != "x86_64" or not (6, 11) <= kernel_version(release) <= (6, 13)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What there is between start and close."""

    bpf: Any
    ledger: BpfLedger
    events: BpfEvents
    rings: tuple[BpfRing, ...]
    libraries: BpfLibraries


class BpfWitness:
    """The `Witness` that looks into the kernel. All calls from one thread at a time.

    Args:
        source_dir: The installed `bpf` folder.
        cache_dir: Where a merged view of split kernel headers is kept.
        probes: `all`, or `physical`: the system-call tracepoints only, no library is probed.
        return_probes: Whether functions may be probed where they return; None: where that is safe.
        owner: Who keeps maps and probes when this process ends: the next witness of the same owner goes on from them.
            None: nobody; they end with this process.
        macros: Sizes that override those of common.bpf.h, such as `{"CVG_RING_PAGES": 2048}`.
        proc: Where procfs is mounted.

    Attributes:
        headers: The kernel headers that were used, once started.
    """

    def __init__(
        self,
        source_dir: Path,
        *,
        cache_dir: Path = DEFAULT_CACHE_DIR,
        probes: Literal["all", "physical"] = "all",
        return_probes: bool | None = None,
        owner: str | None = None,
        macros: Mapping[str, int] | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._source_dir = source_dir.absolute()
        self._cache_dir = cache_dir
        self._macros = dict(macros or {})
        self._owner = owner
        self._pins: Path | None = None
        self._proc = proc
        self._tracepoints: list[str] = []
        self._missing: dict[str, str] = {}
        self._loaded: _Loaded | None = None
        self._no_libraries: str | None = None
        if probes == "physical":
            self._no_libraries = "not probed, by configuration"
        elif return_probes is False or (
            return_probes is None and not return_probes_are_safe(platform.release(), platform.machine())
        ):
            self._no_libraries = "not probed: with Linux 6.11 to 6.13 a return probe ends processes under seccomp"
        self.headers: HeaderChoice | None = None

    def start(self) -> None:
        """Compile and attach; blocks for about a second.

        While it runs, bcc changes working directory and standard error of the whole process.

        Raises:
            EnvironmentMissingError: bcc, kernel headers, a right or a feature of the kernel is missing.
        """
        if self._loaded is not None:
            raise RuntimeError("the witness runs already")
        release = platform.release()
        _check_machine(release)
        bcc = load_bcc()
        ensure_tracefs()
        self.headers = ensure_headers(release, self._cache_dir)
        source = read_source(self._source_dir)
        with captured_stderr() as printed:
            try:
                self._load(bcc, source, self.headers)
            except EnvironmentMissingError:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise EnvironmentMissingError(
                    f"the eBPF programs cannot be loaded: {error}\n{printed()}".rstrip(),
                    next_step="run `convgpu doctor`",
                ) from error

    def _load(self, bcc: ModuleType, source: BpfSource, headers: HeaderChoice) -> None:
        self._pins = self._pin_folder(source)
        bpf = self._compile(bcc, source, headers)
        attacher: Attacher = ProcessAttacher(bpf) if self._pins is None else PinnedAttacher(self._pins)
        ledger = BpfLedger(bcc, bpf, source)
        libraries = BpfLibraries(
            bpf, {kind: source.symbols(kind) for kind in get_args(LibraryKind)}, attacher, catch=ledger.catch
        )
        rings = (
            self._ring(bpf, source, "events", "CVG_RING_PAGES"),
            self._ring(bpf, source, "notices", "CVG_NOTICE_PAGES"),
            self._ring(bpf, source, "stacks", "CVG_STACK_PAGES"),
        )
        self._loaded = _Loaded(bpf, ledger, BpfEvents(*rings, source, ledger, self._proc), rings, libraries)
        if self._no_libraries is None:
            for probe in source.probes:
                bpf.load_func(f"uprobe__{probe.symbol}".encode(), bcc.BPF.KPROBE)
                bpf.load_func(f"uretprobe__{probe.symbol}".encode(), bcc.BPF.KPROBE)
        for tracepoint in _TRACEPOINTS:
            self._attach_tracepoint(bcc, bpf, attacher, tracepoint)
        self.forget_many(ledger.ended(self._proc))
        bpf.free_bcc_memory()  # the compiler's pages are not needed again

    def _ring(self, bpf: Any, source: BpfSource, name: str, pages: str) -> BpfRing:
        ring = bpf[name.encode()]
        # bcc describes a record's structure when it is asked to look at one.
        layout = Layout(type(ring.event(ctypes.create_string_buffer(1024))))
        return BpfRing(ring.map_fd, self._macros.get(pages, source.sizes[pages]), layout)

    def _pin_folder(self, source: BpfSource) -> Path | None:
        if self._owner is None:
            return None
        try:
            return pin_folder(self._owner, source.text + repr(sorted(self._macros.items())).encode())
        except EnvironmentMissingError as error:
            self._missing["pins"] = f"{error.message}: what a daemon saw ends with it"
            return None

    def _compile(self, bcc: ModuleType, source: BpfSource, headers: HeaderChoice) -> Any:
        flags = ["-w", f"-I{source.folder}", *(f"-D{name}={value}" for name, value in self._macros.items())]
        child_at = field_offset("sched:sched_process_fork", "child_pid")
        if child_at is not None:
            flags.append(f"-DCVG_FORK_CHILD_AT={child_at}")
        if self._pins is not None:
            flags.append(f'-DCVG_PIN_DIR="{self._pins}"')
        before = {name: os.environ.get(name) for name in headers.env}
        os.environ.update(headers.env)
        try:
            return bcc.BPF(text=source.text, cflags=flags)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def _attach_tracepoint(self, bcc: ModuleType, bpf: Any, attacher: Attacher, tracepoint: _Tracepoint) -> None:
        program = f"tp__{tracepoint.name.replace(':', '__')}"
        try:
            attacher.tracepoint(tracepoint.name, bpf.load_func(program.encode(), bcc.BPF.TRACEPOINT))
        except Exception as error:
            if tracepoint.required:
                raise EnvironmentMissingError(
                    f"the kernel's tracepoint {tracepoint.name} cannot be used, so {tracepoint.without}: {error}",
                    next_step="use a kernel with CONFIG_FTRACE_SYSCALLS and CONFIG_BPF_EVENTS",
                ) from error
            self._missing[f"tracepoint {tracepoint.name}"] = f"{error}: {tracepoint.without}"
        else:
            self._tracepoints.append(f"tracepoint {tracepoint.name}")

    def close(self, *, keep: bool = False) -> None:
        """Detach everything and drop all accounts; with `keep`, leave what is pinned to the next witness."""
        if self._pins is not None and not keep:
            remove_pins(self._pins)
        loaded, self._loaded = self._loaded, None
        self._tracepoints.clear()
        if loaded is None:
            return
        for ring in loaded.rings:
            ring.close()
        loaded.libraries.close()
        with captured_stderr():
            loaded.bpf.cleanup()
        atexit.unregister(loaded.bpf.cleanup)

    def attach_library(self, path: str, kind: LibraryKind) -> bool:
        """Watch a library, or an executable that contains it; again for the same file changes nothing.

        Returns:
            Whether at least one of its functions is watched. Why not, is in `status`.
        """
        if self._loaded is None:
            return False
        if self._no_libraries is not None:
            self._missing[path] = self._no_libraries
            return False
        return self._loaded.libraries.attach(path, kind)

    def status(self) -> WitnessStatus:
        """Return what is attached, what is missing and why, and what was lost; a kind with no loss is left out."""
        loaded = self._loaded
        missing = self._missing | (loaded.libraries.missing if loaded else {})
        return WitnessStatus(
            running=loaded is not None,
            reason=None if loaded else "not running",
            attached=(*self._tracepoints, *(loaded.libraries.attached if loaded else ())),
            missing=tuple(f"{what}: {why}" for what, why in missing.items()),
            lost={name: count for name, count in self.losses().items() if count},
        )

    def losses(self) -> dict[str, int]:
        """Return every loss counter, zeros included; bpf/README.md explains the names."""
        return self._loaded.ledger.losses() if self._loaded else {}

    def balances(self) -> list[WitnessBalance]:
        """Return every balance, those of ended processes included until `forget`."""
        return self._loaded.ledger.balances() if self._loaded else []

    def latencies(self) -> list[WitnessLatency]:
        """Return calls and their durations by cgroup, complete since the witness came."""
        return self._loaded.ledger.latencies() if self._loaded else []

    def want_stacks(self, for_s: float) -> None:
        """Have events tell where they were called from, for so long; to be said again in time, or 0 to end it."""
        if self._loaded is not None:
            self._loaded.ledger.want_stacks(time.monotonic_ns() + int(for_s * 1e9) if for_s > 0 else 0)

    def programs(self) -> dict[str, int]:
        """Return the descriptors of the loaded programs, for who wants to ask the kernel about them."""
        return {name.decode(): program.fd for name, program in self._loaded.bpf.funcs.items()} if self._loaded else {}

    def newcomers_fd(self) -> int | None:
        """Return a descriptor that becomes readable when a process begins to use the driver; None: there is none."""
        return self._loaded.rings[1].fd if self._loaded else None

    def newcomers(self) -> list[Newcomer]:
        """Return those since the last call. Never blocks."""
        return self._loaded.events.newcomers() if self._loaded else []

    def processes(self) -> dict[int, int]:
        """Return the cgroup id of every process that used the driver and is not forgotten, by pid."""
        return self._loaded.ledger.processes() if self._loaded else {}

    def release_unused(self, mapped: Iterable[str]) -> list[str]:
        """Give back the probes on runtimes that no process has mapped for some time; return their paths."""
        return self._loaded.libraries.release_unused(mapped) if self._loaded else []

    def device_map(self) -> dict[int, tuple[int, int, int]]:
        """Return the PCI address (domain, bus, slot) of each device instance seen so far."""
        return self._loaded.ledger.device_map() if self._loaded else {}

    def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call, oldest first, at most some ten thousand. Never blocks."""
        return self._loaded.events.drain() if self._loaded else []

    def forget(self, pid: int) -> None:
        """Drop all entries of a process that has ended."""
        self.forget_many((pid,))

    def forget_many(self, pids: Iterable[int]) -> None:
        """Drop all entries of several processes that have ended, at the price of one."""
        if self._loaded is not None:
            gone = frozenset(pids)
            self._loaded.ledger.forget(gone, self._proc)
            self._loaded.events.forget(gone)
            self._loaded.libraries.forget(gone)


def _check_machine(release: str) -> None:
    if os.geteuid() != 0:
        raise EnvironmentMissingError("the witness loads programs into the kernel and needs root")
    if kernel_version(release) < _OLDEST_KERNEL:
        raise EnvironmentMissingError(f"the witness needs Linux 5.8 or newer; this is {release}")
    if str(Path("/proc/self/ns/pid").readlink()) != _HOST_PID_NAMESPACE:
        raise EnvironmentMissingError(
            "the witness must run in the host's pid namespace: the kernel tells it the host's pids",
            next_step="run the daemon on the host, or in a container with `--pid host`",
        )
