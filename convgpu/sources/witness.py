# SPDX-License-Identifier: Apache-2.0
"""What a witness tells: the words between the eBPF side and everybody who asks it. Imports no bcc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import msgspec

from convgpu.core.status import WitnessStatus

UNKNOWN_DEVICE: Final = -1
"""Device instance of bytes that cannot be tied to one device."""

HARMLESS_LOSSES: Final = frozenset(
    {
        *("ring_full", "suppressed", "stacks_full", "notices_full", "latencies_full"),
        *("unknown_free", "missed_free", "unknown_parent", "replaced_client"),
    }
)
"""After these balances are exact all the same: the table in bpf/README.md. After any other one lacks something."""

LibraryKind = Literal["libcuda", "libcudart"]
EventSource = Literal["boundary", "driver", "runtime", "process"]
EventKind = Literal["alloc", "free", "fail", "exit"]
MemoryKind = Literal["physical", "linear", "pool", "managed", "array", "vmm", "host"]
"""What a call takes: `physical` at the boundary, where there is no kind; `host` is pinned memory of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessBalance:
    """What one process holds on one device, as the kernel counted it. The three figures in bytes are never added up.

    A CUDA call does not name its device. The API figures stand beside the physical ones where the process has memory on
    exactly one device, which must then be it; else in a balance of their own with `UNKNOWN_DEVICE`.

    Attributes:
        cgroup_id: Inode of the cgroup's folder in the v2 hierarchy.
        pid: Process (thread group) in the host's pid namespace; at the boundary the one that made the driver's client.
        device_instance: The driver's number of the device, which is not NVML's index; see `Witness.device_map`.
        physical_bytes: Live video memory, as the driver rounded it.
        physical_peak_bytes: Highest `physical_bytes`; best effort, may miss a peak of several threads at once.
        driver_bytes: Live bytes as libcuda was asked for them, by whatever call; pinned memory of the host left out.
        runtime_bytes: The same of libcudart, without stream-ordered memory (`pool`), of which libcuda is asked as much.
        allocations: Successful allocations at the boundary, ever.
        frees: Allocations that ended at the boundary, ever; those that ended with their client or device included.
        failures: Allocations that the driver refused. libcuda tries twice: one refused cuMemAlloc_v2 is two.
        driver_allocations: And so on: the same three counts for libcuda and for libcudart.
        driver_by_kind: `driver_bytes` by kind of memory, and pinned memory of the host beside it.
        runtime_by_kind: The same of libcudart, without `vmm` and `pool`.
        partial: It had begun to use the driver when the witness came: what it held by then is not in these figures.
    """

    cgroup_id: int
    pid: int
    device_instance: int
    physical_bytes: int
    physical_peak_bytes: int
    driver_bytes: int
    runtime_bytes: int
    allocations: int
    frees: int
    failures: int
    driver_allocations: int = 0
    driver_frees: int = 0
    driver_failures: int = 0
    runtime_allocations: int = 0
    runtime_frees: int = 0
    runtime_failures: int = 0
    driver_by_kind: Mapping[MemoryKind, int] = field(default_factory=dict, hash=False)
    runtime_by_kind: Mapping[MemoryKind, int] = field(default_factory=dict, hash=False)
    partial: bool = False


class WitnessEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened: the story, not the sum. Balances do not depend on events.

    A msgspec structure, because it is made a hundred thousand times a second: a tenth of a frozen dataclass's time.

    Attributes:
        mono_ns: CLOCK_MONOTONIC at the return of the call, comparable with `time.monotonic_ns()`.
        pid: The process that is charged.
        tid: The thread that made the call.
        source: Who says so; `process` for `exit`.
        size_bytes: Of a free, all that it ended: a client's whole memory, for example. 0 for `exit`.
        latency_ns: Duration of the call; 0 for `exit`.
        device_instance: `UNKNOWN_DEVICE` for the API sources.
        api: The call: a name of symbols.def, `RM_ALLOC` or `RM_FREE` at the boundary; empty for `exit`, and for a call
            of the runtime that had begun before its library was watched.
        memory: What kind of memory the call takes; of a free, what was freed.
        pointer: What the API gave out or took back; 0 at the boundary and for failures.
        stack: Where it was called from, return addresses, the innermost first, as far as the program keeps frame
            pointers; empty unless somebody wants stacks (`Witness.want_stacks`), and where one was lost.
    """

    mono_ns: int
    cgroup_id: int
    pid: int
    tid: int
    comm: str
    source: EventSource
    kind: EventKind
    size_bytes: int
    latency_ns: int
    device_instance: int
    api: str = ""
    memory: MemoryKind = "physical"
    pointer: int = 0
    stack: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessLatency:
    """How often a cgroup made one call since the witness came, and how long that took: complete, unlike events.

    Attributes:
        api: As in `WitnessEvent`.
        source: The layer that the call belongs to.
        calls: Successful ones.
        failures: The others.
        size_bytes: What the successful ones took or gave, summed.
        total_ns: Time spent in all of them.
        histogram: How many took 2**i to 2**(i+1) - 1 nanoseconds, by i; the last has all that took longer.
    """

    cgroup_id: int
    api: str
    source: EventSource
    calls: int
    failures: int
    size_bytes: int
    total_ns: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """A process that begins to use the driver, told before it can allocate.

    Attributes:
        mono_ns: When it did.
        tid: The thread that did.
    """

    mono_ns: int
    cgroup_id: int
    pid: int
    tid: int


class Witness(Protocol):
    """Sees what processes really do with GPU memory. All calls from one thread at a time."""

    def start(self) -> None:
        """Compile and attach; blocks for about a second.

        Raises:
            EnvironmentMissingError: bcc, kernel headers, a right or a feature of the kernel is missing.
        """

    def status(self) -> WitnessStatus:
        """Return what is attached, what is missing and why, and what was lost."""

    def balances(self) -> list[WitnessBalance]:
        """Return every balance, those of ended processes included until `forget`."""

    def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call, oldest first, at most some ten thousand. Never blocks."""

    def latencies(self) -> list[WitnessLatency]:
        """Return calls and their durations by cgroup, complete since the witness came."""

    def want_stacks(self, for_s: float) -> None:
        """Have events tell where they were called from, for so long; to be said again in time, or 0 to end it."""

    def newcomers_fd(self) -> int | None:
        """Return a descriptor that becomes readable when a process begins to use the driver; None: there is none."""

    def newcomers(self) -> list[Newcomer]:
        """Return those since the last call. Never blocks."""

    def processes(self) -> dict[int, int]:
        """Return the cgroup id of every process that used the driver and is not forgotten, by pid."""

    def release_unused(self, mapped: Iterable[str]) -> list[str]:
        """Give back the probes on runtimes that no process has mapped for some time.

        Args:
            mapped: Paths, as for `attach_library`, of what processes have mapped now.

        Returns:
            The paths of those that are not watched any more.
        """

    def attach_library(self, path: str, kind: LibraryKind) -> bool:
        """Watch a library, or an executable that contains it; again for the same file changes nothing.

        Returns:
            Whether at least one of its functions is watched. Why not, is in `status`.
        """

    def device_map(self) -> dict[int, tuple[int, int, int]]:
        """Return the PCI address (domain, bus, slot) of each device instance seen so far."""

    def forget(self, pid: int) -> None:
        """Drop all entries of a process that has ended."""

    def forget_many(self, pids: Iterable[int]) -> None:
        """Drop all entries of several processes that have ended, at the price of one."""

    def close(self, *, keep: bool = False) -> None:
        """Detach everything; with `keep`, leave accounts and probes to the next witness where that is possible."""
