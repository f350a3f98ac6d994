# SPDX-License-Identifier: Apache-2.0
"""A witness without a kernel: it sees exactly what it is told, and keeps the same books as the real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from convgpu.core.status import WitnessStatus
from convgpu.errors import EnvironmentMissingError
from convgpu.sources.witness import (
    UNKNOWN_DEVICE,
    EventKind,
    EventSource,
    LibraryKind,
    Newcomer,
    WitnessBalance,
    WitnessEvent,
    WitnessLatency,
)

Layer = Literal["boundary", "driver", "runtime"]

_CALLS: Final[Mapping[tuple[EventSource, str], str]] = {
    ("boundary", "alloc"): "RM_ALLOC",
    ("boundary", "free"): "RM_FREE",
    ("driver", "alloc"): "cuMemAlloc_v2",
    ("driver", "free"): "cuMemFree_v2",
    ("runtime", "alloc"): "cudaMalloc",
    ("runtime", "free"): "cudaFree",
}


@dataclass
class _Account:
    size_bytes: int = 0
    peak_bytes: int = 0
    allocations: int = 0
    frees: int = 0
    failures: int = 0
    asked_bytes: int = 0


@dataclass
class _Process:
    cgroup_id: int
    comm: str
    ended: bool = False
    partial: bool = False
    boundary: dict[int, _Account] = field(default_factory=dict)
    driver: _Account = field(default_factory=_Account)
    runtime: _Account = field(default_factory=_Account)


class FakeWitness:
    """A `Witness` that is told what happens.

    It behaves as the real one: when more than `ring_events` wait to be drained, events are lost and counted, balances
    are not; nothing is seen before `start`, nor of a layer whose library is not attached; what a process held stays
    until `forget`.

    Args:
        missing: Why it cannot start: `start` then raises EnvironmentMissingError with it.
        libraries: Files that can be attached, and what they are; None: every file can be, as anything.
        devices: PCI address (domain, bus, slot) by device instance.
        ring_events: Room for events.
        clock_ns: Where events get their time.
    """

    def __init__(
        self,
        *,
        missing: str | None = None,
        libraries: dict[str, LibraryKind] | None = None,
        devices: dict[int, tuple[int, int, int]] | None = None,
        ring_events: int = 65536,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._why_not = missing
        self._libraries = libraries
        self._devices = dict(devices or {})
        self._ring_events = ring_events
        self._clock_ns = clock_ns
        self._running = False
        self._attached: dict[tuple[str, LibraryKind], None] = {}
        self._missing: dict[str, str] = {}
        self._lost: dict[str, int] = {}
        self._processes: dict[int, _Process] = {}
        self._events: list[WitnessEvent] = []
        self._newcomers: list[Newcomer] = []
        self._stacks: dict[int, tuple[int, ...]] = {}
        self.stacks_until_ns = 0

    # The Witness

    def start(self) -> None:
        """Begin to see.

        Raises:
            EnvironmentMissingError: As the constructor was told.
        """
        if self._why_not is not None:
            raise EnvironmentMissingError(self._why_not)
        self._running = True

    def status(self) -> WitnessStatus:
        """Return what is attached, what is missing and why, and what was lost."""
        return WitnessStatus(
            running=self._running,
            reason=None if self._running else "not running",
            attached=tuple(path for path, _ in self._attached) if self._running else (),
            missing=tuple(f"{path}: {reason}" for path, reason in self._missing.items()),
            lost=dict(self._lost),
        )

    def balances(self) -> list[WitnessBalance]:
        """Return every balance, those of ended processes included until `forget`."""
        return [balance for pid, process in list(self._processes.items()) for balance in _balances(pid, process)]

    def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def attach_library(self, path: str, kind: LibraryKind) -> bool:
        """Watch a library; again for the same file changes nothing."""
        if not self._running:
            return False
        if self._libraries is not None and self._libraries.get(path) != kind:
            self._missing[path] = "not defined in this file"
            return False
        self._attached[path, kind] = None
        return True

    def latencies(self) -> list[WitnessLatency]:
        """Return the calls of each cgroup; every call takes a microsecond."""
        found: dict[tuple[int, EventSource, str], tuple[int, int, int]] = {}
        for process in self._processes.values():
            accounts: list[tuple[EventSource, _Account]] = [("driver", process.driver), ("runtime", process.runtime)]
            accounts += [("boundary", account) for account in process.boundary.values()]
            for source, account in accounts:
                for kind, calls, failures in (
                    ("alloc", account.allocations, account.failures),
                    ("free", account.frees, 0),
                ):
                    before = found.get((process.cgroup_id, source, kind), (0, 0, 0))
                    size_bytes = account.asked_bytes if kind == "alloc" else account.asked_bytes - account.size_bytes
                    found[process.cgroup_id, source, kind] = (
                        before[0] + calls,
                        before[1] + failures,
                        before[2] + size_bytes,
                    )
        return [
            WitnessLatency(
                cgroup_id=cgroup_id,
                api=_CALLS[source, kind],
                source=source,
                calls=calls,
                failures=failures,
                size_bytes=size_bytes,
                total_ns=1000 * (calls + failures),
                histogram=(*(0,) * 9, calls + failures, *(0,) * 30),
            )
            for (cgroup_id, source, kind), (calls, failures, size_bytes) in found.items()
            if calls + failures
        ]

    def want_stacks(self, for_s: float) -> None:
        """Have events tell where they were called from, for so long."""
        self.stacks_until_ns = self._clock_ns() + int(for_s * 1e9) if for_s > 0 else 0

    def newcomers_fd(self) -> int | None:
        """Return None: nobody is woken."""
        return None

    def newcomers(self) -> list[Newcomer]:
        """Return the processes that began since the last call."""
        newcomers, self._newcomers = self._newcomers, []
        return newcomers

    def processes(self) -> dict[int, int]:
        """Return the cgroup id of every process, by pid."""
        return {pid: process.cgroup_id for pid, process in self._processes.items()}

    def release_unused(self, mapped: Iterable[str]) -> list[str]:
        """Keep everything: no time passes here."""
        del mapped
        return []

    def device_map(self) -> dict[int, tuple[int, int, int]]:
        """Return the PCI address of each device instance."""
        return dict(self._devices)

    def forget(self, pid: int) -> None:
        """Drop all entries of a process that has ended."""
        self._processes.pop(pid, None)

    def forget_many(self, pids: Iterable[int]) -> None:
        """Drop all entries of several processes that have ended."""
        for pid in pids:
            self.forget(pid)

    def close(self, *, keep: bool = False) -> None:
        """Stop seeing, and drop all accounts: nothing outlives this one."""
        del keep
        self._running = False
        self._processes.clear()
        self._events.clear()

    # What it is told

    def process(self, pid: int, *, cgroup_id: int = 1, comm: str = "program", partial: bool = False) -> None:
        """A process begins, or, where `partial`, goes on. One that allocates without is made with these defaults."""
        self._processes[pid] = _Process(cgroup_id=cgroup_id, comm=comm, partial=partial)
        self._newcomers.append(Newcomer(mono_ns=self._clock_ns(), cgroup_id=cgroup_id, pid=pid, tid=pid))

    def stack(self, pid: int, addresses: tuple[int, ...]) -> None:
        """A process makes its calls from there, from now on."""
        self._stacks[pid] = addresses

    def lose_stacks(self, count: int) -> None:
        """So many stacks did not fit."""
        self._lost["stacks_full"] = self._lost.get("stacks_full", 0) + count

    def alloc(self, pid: int, size_bytes: int, *, layer: Layer = "boundary", device: int = 0) -> None:
        """A process allocates."""
        account = self._account(pid, layer, device)
        if account is None:
            return
        account.size_bytes += size_bytes
        account.asked_bytes += size_bytes
        account.allocations += 1
        account.peak_bytes = max(account.peak_bytes, account.size_bytes)
        self._tell(pid, layer, "alloc", size_bytes, device)

    def free(self, pid: int, size_bytes: int, *, layer: Layer = "boundary", device: int = 0) -> None:
        """A process frees; of an API layer that holds less, it is an unknown free."""
        account = self._account(pid, layer, device)
        if account is None:
            return
        if account.size_bytes < size_bytes:
            self._lose("unknown_free")
            return
        account.size_bytes -= size_bytes
        account.frees += 1
        self._tell(pid, layer, "free", size_bytes, device)

    def fail(self, pid: int, size_bytes: int, *, layer: Layer = "boundary", device: int = 0) -> None:
        """An allocation of a process is refused."""
        account = self._account(pid, layer, device)
        if account is None:
            return
        account.failures += 1
        self._tell(pid, layer, "fail", size_bytes, device)

    def end(self, pid: int) -> None:
        """A process ends; told once, and only of one that has an account."""
        process = self._processes.get(pid)
        if process is not None and not process.ended:
            process.ended = True
            self._tell(pid, "process", "exit", 0, UNKNOWN_DEVICE)

    def _account(self, pid: int, layer: Layer, device: int) -> _Account | None:
        needed: dict[Layer, LibraryKind] = {"driver": "libcuda", "runtime": "libcudart"}
        if not self._running or (layer in needed and needed[layer] not in {kind for _, kind in self._attached}):
            return None
        if pid not in self._processes:
            self.process(pid)
        process = self._processes[pid]
        if layer == "boundary":
            return process.boundary.setdefault(device, _Account())
        return process.driver if layer == "driver" else process.runtime

    def _tell(self, pid: int, source: EventSource, kind: EventKind, size_bytes: int, device: int) -> None:
        if len(self._events) >= self._ring_events:
            self._lose("ring_full")
            return
        process = self._processes[pid]
        now_ns = self._clock_ns()
        self._events.append(
            WitnessEvent(
                mono_ns=now_ns,
                cgroup_id=process.cgroup_id,
                pid=pid,
                tid=pid,
                comm=process.comm,
                source=source,
                kind=kind,
                size_bytes=size_bytes,
                latency_ns=0 if kind == "exit" else 1000,
                device_instance=device if source == "boundary" else UNKNOWN_DEVICE,
                api=_CALLS.get((source, "free" if kind == "free" else "alloc"), ""),
                memory="physical" if source in {"boundary", "process"} else "linear",
                stack=self._stacks.get(pid, ()) if now_ns < self.stacks_until_ns else (),
            )
        )

    def _lose(self, kind: str) -> None:
        self._lost[kind] = self._lost.get(kind, 0) + 1


def _balances(pid: int, process: _Process) -> list[WitnessBalance]:
    devices = dict(process.boundary)
    api_device = next(iter(devices)) if len(devices) == 1 else UNKNOWN_DEVICE
    has_api = process.driver != _Account() or process.runtime != _Account()
    if has_api:
        devices.setdefault(api_device, _Account())
    nothing = _Account()
    balances = []
    for device, account in devices.items():
        beside = has_api and device == api_device
        driver, runtime = (process.driver, process.runtime) if beside else (nothing, nothing)
        balances.append(
            WitnessBalance(
                cgroup_id=process.cgroup_id,
                pid=pid,
                device_instance=device,
                physical_bytes=account.size_bytes,
                physical_peak_bytes=account.peak_bytes,
                driver_bytes=driver.size_bytes,
                runtime_bytes=runtime.size_bytes,
                allocations=account.allocations,
                frees=account.frees,
                failures=account.failures,
                driver_allocations=driver.allocations,
                driver_frees=driver.frees,
                driver_failures=driver.failures,
                runtime_allocations=runtime.allocations,
                runtime_frees=runtime.frees,
                runtime_failures=runtime.failures,
                driver_by_kind={"linear": driver.size_bytes} if driver != nothing else {},
                runtime_by_kind={"linear": runtime.size_bytes} if runtime != nothing else {},
                partial=process.partial,
            )
        )
    return balances
