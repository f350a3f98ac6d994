# SPDX-License-Identifier: Apache-2.0
"""The accounts that the eBPF programs keep in kernel maps: read, and cleared of what has ended."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from convgpu.sources import procfs
from convgpu.sources.bpf_source import BpfSource
from convgpu.sources.bpf_table import BpfTable, Row
from convgpu.sources.witness import UNKNOWN_DEVICE, WitnessBalance

_ORPHANS_SWEPT: Final = 1024
"""Orphaned object entries that are let lie before a sweep, which costs some milliseconds."""


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
        self._clients = table("clients")
        self._parents = table("parents")
        self._objects = table("objects")
        self._totals = table("totals")
        self._gpu_instances = table("gpu_instances")
        self._gpu_addresses = table("gpu_addresses")
        self._orphans_seen = 0

    def losses(self) -> dict[str, int]:
        """Return every loss counter, zeros included."""
        return {name: self._counter("losses", index) for index, name in enumerate(self._source.losses)}

    def loss(self, name: str) -> int:
        """Return one loss counter."""
        return self._counter("losses", self._source.losses.index(name))

    def _counter(self, array: str, index: int) -> int:
        return int(self._bpf[array.encode()][ctypes.c_int(index)].value)

    def processes(self) -> dict[int, int]:
        """Return the cgroup id of every process that has an account, by pid."""
        return {key.value: leaf.cgroup_id for key, leaf in self._processes.items()}

    def ended(self, proc: Path) -> list[int]:
        """Return the pids whose processes are gone, also where another process has the pid by now.

        Only maps that outlived a daemon hold any at the start: nobody was told of those ends.
        """
        return [key.value for key, leaf in self._processes.items() if not _is_same(key.value, leaf.first_seen_ns, proc)]

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
        orphans = self._counter("orphans", 0)
        if orphans - self._orphans_seen >= _ORPHANS_SWEPT:
            self._orphans_seen = orphans
            self._sweep(frozenset())
        accounts: dict[tuple[int, int], dict[int, dict[str, Row]]] = {}
        apis: dict[tuple[int, int], dict[str, Row]] = {}
        for key, leaf in self._balances.items():
            source = self._source.sources[key.source]
            process = (key.cgroup_id, key.tgid)
            if source == "boundary":
                accounts.setdefault(process, {})[key.device] = {source: leaf}
            else:
                apis.setdefault(process, {})[source] = leaf
        for process, api in apis.items():
            devices = accounts.setdefault(process, {})
            device = next(iter(devices)) if len(devices) == 1 else UNKNOWN_DEVICE
            devices.setdefault(device, {}).update(api)
        return [
            _balance(cgroup_id, pid, device, leaves)
            for (cgroup_id, pid), devices in accounts.items()
            for device, leaves in devices.items()
        ]

    def forget(self, pids: frozenset[int]) -> None:
        """Drop all entries of processes that have ended."""
        self._sweep(pids)
        self._live.delete([key for key, _ in self._live.items() if key.tgid in pids])
        self._balances.delete([key for key, _ in self._balances.items() if key.tgid in pids])
        self._processes.delete([key for key, _ in self._processes.items() if key.value in pids])

    def _sweep(self, gone: frozenset[int]) -> None:
        """Drop the clients of some processes, and whatever has no client or parent any more.

        Children are read before what they hang on: one that is made in between is then never taken for an orphan.
        """
        objects = self._objects.items()
        totals = self._totals.items()
        parents = self._parents.items()
        clients = self._clients.items()
        alive = {number.value: client.generation for number, client in clients if client.tgid not in gone}
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


def _is_same(pid: int, first_seen_ns: int, proc: Path) -> bool:
    """Tell whether a process that the kernel saw then is the one that has the pid now."""
    try:
        ticks = procfs.start_ticks(pid, proc)
    except procfs.ProcessGoneError:
        return False
    # The start time counts while the machine sleeps, the kernel's stamp does not.
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return ticks * tick_ns <= first_seen_ns + asleep_ns + tick_ns


def _balance(cgroup_id: int, pid: int, device: int, leaves: Mapping[str, Row]) -> WitnessBalance:
    def of(source: str) -> Callable[[str], int]:
        leaf = leaves.get(source)
        return lambda field: int(getattr(leaf, field)) if leaf is not None else 0

    boundary, driver, runtime = of("boundary"), of("driver"), of("runtime")
    return WitnessBalance(
        cgroup_id=cgroup_id,
        pid=pid,
        device_instance=device,
        physical_bytes=boundary("bytes"),
        physical_peak_bytes=boundary("peak_bytes"),
        driver_bytes=driver("bytes"),
        runtime_bytes=runtime("bytes"),
        allocations=boundary("allocations"),
        frees=boundary("frees"),
        failures=boundary("failures"),
        driver_allocations=driver("allocations"),
        driver_frees=driver("frees"),
        driver_failures=driver("failures"),
        runtime_allocations=runtime("allocations"),
        runtime_frees=runtime("frees"),
        runtime_failures=runtime("failures"),
    )
