# SPDX-License-Identifier: Apache-2.0
"""The accounts that the eBPF programs keep in kernel maps: read, and cleared of what has ended."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from convgpu.sources import procfs
from convgpu.sources.bpf_source import BpfSource
from convgpu.sources.bpf_table import BpfTable, Row
from convgpu.sources.witness import (
    UNKNOWN_DEVICE,
    EventSource,
    LibraryKind,
    MemoryKind,
    WitnessBalance,
    WitnessLatency,
)

_Leaves = dict[str, dict[str, Row]]
"""Entries of one process by source and kind of memory."""

_LAYERS: Final[Mapping[LibraryKind, EventSource]] = {"libcuda": "driver", "libcudart": "runtime"}

_ORPHANS_SWEPT: Final = 1024
"""Orphaned object entries that are let lie before a sweep, which costs some milliseconds."""
_LATENCIES_KEPT: Final = 2048
"""Half of CVG_MAX_LATENCIES in bpf/common.bpf.h: histograms of cgroups without a process stay until there are more."""


class BpfLedger:
    """Balances and what they rest on.

    Args:
        bcc: The loaded package.
        bpf: The compiled module, a `bcc.BPF`.
        source: Its text, for the words.
    """

    def __init__(self, bcc: ModuleType, bpf: Any, source: BpfSource) -> None:
        self._bpf = bpf
        self._source = source

        def table(name: str) -> BpfTable:
            return BpfTable(bcc, bpf, name)

        self._balances = table("balances")
        self._processes = table("processes")
        self._live = table("live")
        self._threads = table("threads")
        self._clients = table("clients")
        self._parents = table("parents")
        self._objects = table("objects")
        self._totals = table("totals")
        self._primaries = table("primaries")
        self._latencies = table("latencies")
        self._gpu_instances = table("gpu_instances")
        self._gpu_addresses = table("gpu_addresses")
        self._catching = table("catching")
        self._catching_any = table("catching_any")
        self._stacks_until_ns = table("stacks_until_ns")
        self._may_catch = True
        self._orphans_seen = 0

    def losses(self) -> dict[str, int]:
        """Return every loss counter, zeros included."""
        return {name: self._lost(index) for index, name in enumerate(self._source.losses)}

    def loss(self, name: str) -> int:
        """Return one loss counter."""
        return self._lost(self._source.losses.index(name))

    def _lost(self, index: int) -> int:
        return sum(self._bpf[b"losses"][ctypes.c_int(index)])  # one for each processor

    def processes(self) -> dict[int, int]:
        """Return the cgroup id of every process that has an account, by pid."""
        return {key.value: leaf.cgroup_id for key, leaf in self._processes.items()}

    def ended(self, proc: Path) -> list[int]:
        """Return the pids whose processes are gone, also where another process has the pid by now.

        Only maps that outlived a daemon hold any at the start: nobody was told of those ends.
        """
        return [
            key.value for key, leaf in self._processes.items() if not procfs.ran_at(key.value, leaf.first_seen_ns, proc)
        ]

    def device_map(self) -> dict[int, tuple[int, int, int]]:
        """Return the PCI address (domain, bus, slot) of each device instance seen so far.

        With one GPU, libcuda does not ask for the address (driver 580 on an H100). The driver's gpuId is made of it:
        gpuGenerate32BitId in gpu.c of NVIDIA's open kernel modules.
        """
        told = {key.value: (leaf.domain, leaf.bus, leaf.slot) for key, leaf in self._gpu_addresses.items()}
        return {
            key.value: told.get(leaf.value, (leaf.value >> 16, leaf.value >> 8 & 0xFF, leaf.value & 0xFF))
            for key, leaf in self._gpu_instances.items()
        }

    def balances(self) -> list[WitnessBalance]:
        """Return every balance, those of ended processes included until they are forgotten."""
        orphans = int(self._bpf[b"orphans"][ctypes.c_int(0)].value)
        if orphans - self._orphans_seen >= _ORPHANS_SWEPT:
            self._orphans_seen = orphans
            self._sweep(frozenset())
        self._stop_catching()
        partial = {client.tgid for _, client in self._clients.items() if client.partial}
        accounts: dict[tuple[int, int], dict[int, _Leaves]] = {}
        apis: dict[tuple[int, int], _Leaves] = {}
        for key, leaf in self._balances.items():
            source = self._source.sources[key.source]
            process = (key.cgroup_id, key.tgid)
            layers = (
                accounts.setdefault(process, {}).setdefault(key.device, {})
                if source == "boundary"
                else apis.setdefault(process, {})
            )
            layers.setdefault(source, {})[self._source.memories[key.memory]] = leaf
        for process, api in apis.items():
            devices = accounts.setdefault(process, {})
            device = next(iter(devices)) if len(devices) == 1 else UNKNOWN_DEVICE
            devices.setdefault(device, {}).update(api)
        return [
            _balance(cgroup_id, pid, device, leaves, pid in partial)
            for (cgroup_id, pid), devices in accounts.items()
            for device, leaves in devices.items()
        ]

    def latencies(self) -> list[WitnessLatency]:
        """Return calls and their durations by cgroup."""
        sources = {probe.symbol: _LAYERS[probe.library] for probe in self._source.probes}
        found = []
        for key, leaf in self._latencies.items():
            api = self._source.apis[key.api]
            found.append(
                WitnessLatency(
                    cgroup_id=key.cgroup_id,
                    api=api,
                    source=sources.get(api, "boundary"),
                    calls=sum(leaf.slots) - leaf.failures,
                    failures=leaf.failures,
                    size_bytes=leaf.size_bytes,
                    total_ns=leaf.total_ns,
                    histogram=leaf.slots,
                )
            )
        return found

    def catch(self, pid: int, code: tuple[int, int], proc: Path) -> None:
        """Mark the threads of a process: one of them may be inside a call of a library that is watched from now on.

        Args:
            pid: The process.
            code: First address, and the one after the last, of the library's code in it.
            proc: Where procfs is mounted.
        """
        with contextlib.suppress(OSError):  # the process has ended, or there are more threads than room
            for tid in procfs.threads(pid, proc):
                self._catching.put([pid << 32 | tid], code)
        self._catching_any.put([0], [1])
        self._may_catch = True

    def want_stacks(self, until_ns: int) -> None:
        """Have stacks told until then, by CLOCK_MONOTONIC."""
        self._stacks_until_ns.put([0], [until_ns])

    def _stop_catching(self) -> None:
        """Spare the programs a look-up when no thread is marked any more."""
        if self._may_catch and not self._catching.items():
            self._catching_any.put([0], [0])
            self._may_catch = False

    def forget(self, pids: frozenset[int], proc: Path = procfs.PROC) -> None:
        """Drop all entries of processes that have ended; not those of a process that has such a number by now."""
        processes = self._processes.items()
        taken = {
            key.value
            for key, leaf in processes
            if key.value in pids
            and leaf.renewed_ns
            and procfs.ran_at(key.value, leaf.first_seen_ns, proc)
            and not procfs.has_ended(key.value, proc)
        }
        gone = pids - taken
        self._sweep(gone)
        self._live.delete([key for key, _ in self._live.items() if key.tgid in gone])
        # A thread's entry goes with it, but for one that called exec: that got another number.
        self._threads.delete([key for key, _ in self._threads.items() if key.value >> 32 in gone])
        self._catching.delete([key for key, _ in self._catching.items() if key.value >> 32 in gone])
        self._primaries.delete([key for key, _ in self._primaries.items() if key.tgid in gone])
        self._balances.delete([key for key, _ in self._balances.items() if key.tgid in gone])
        self._processes.delete([key for key, _ in processes if key.value in gone])
        self._forget_latencies({leaf.cgroup_id for key, leaf in processes if key.value not in gone})

    def _forget_latencies(self, cgroup_ids: set[int]) -> None:
        """Make room, when little is left, by dropping cgroups that have no process."""
        latencies = self._latencies.items()
        if len(latencies) > _LATENCIES_KEPT:
            self._latencies.delete([key for key, _ in latencies if key.cgroup_id not in cgroup_ids])

    def _sweep(self, gone: frozenset[int]) -> None:
        """Drop the clients of some processes, and whatever has no client or parent any more.

        Children are read before what they hang on: one that is made in between is then never taken for an orphan.
        """
        objects = self._objects.items()
        totals = self._totals.items()
        parents = self._parents.items()
        clients = self._clients.items()
        renewed = {key.value: leaf.renewed_ns for key, leaf in self._processes.items()}
        alive = {
            number.value: client.generation
            for number, client in clients
            if client.tgid not in gone and client.generation > renewed.get(client.tgid, 0)
        }
        generations = {
            (key.client, key.handle): parent.generation
            for key, parent in parents
            if alive.get(key.client) == parent.client_generation
        }
        self._clients.delete(number for number, _ in clients if number.value not in alive)
        self._parents.delete(key for key, _ in parents if (key.client, key.handle) not in generations)
        self._totals.delete(key for key, _ in totals if key.client not in alive)
        self._objects.delete(
            key for key, entry in objects if generations.get((key.client, entry.parent)) != entry.parent_generation
        )


def _account(leaves: Mapping[str, Row]) -> Mapping[str, int]:
    """Sum a layer's kinds of memory; pinned memory of the host is in no sum."""
    device = [leaf for memory, leaf in leaves.items() if memory != "host"]
    return {
        field: sum(getattr(leaf, field) for leaf in device) for field in ("bytes", "allocations", "frees", "failures")
    }


def _by_kind(leaves: Mapping[str, Row]) -> dict[MemoryKind, int]:
    return {cast("MemoryKind", memory): leaf.bytes for memory, leaf in leaves.items()}


def _balance(
    cgroup_id: int, pid: int, device: int, leaves: Mapping[str, Mapping[str, Row]], partial: bool
) -> WitnessBalance:
    boundary = leaves.get("boundary", {}).get("physical")
    driver, runtime = _account(leaves.get("driver", {})), _account(leaves.get("runtime", {}))
    return WitnessBalance(
        cgroup_id=cgroup_id,
        pid=pid,
        device_instance=device,
        physical_bytes=boundary.bytes if boundary else 0,
        physical_peak_bytes=boundary.peak_bytes if boundary else 0,
        driver_bytes=driver["bytes"],
        runtime_bytes=runtime["bytes"],
        allocations=boundary.allocations if boundary else 0,
        frees=boundary.frees if boundary else 0,
        failures=boundary.failures if boundary else 0,
        driver_allocations=driver["allocations"],
        driver_frees=driver["frees"],
        driver_failures=driver["failures"],
        runtime_allocations=runtime["allocations"],
        runtime_frees=runtime["frees"],
        runtime_failures=runtime["failures"],
        driver_by_kind=_by_kind(leaves.get("driver", {})),
        runtime_by_kind=_by_kind(leaves.get("runtime", {})),
        partial=partial,
    )
