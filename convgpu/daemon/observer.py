# SPDX-License-Identifier: Apache-2.0
"""What witness and NVML see, gathered off the event loop and sorted by container and process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.status import WitnessStatus
from convgpu.errors import ConvgpuError
from convgpu.sources import cgroup, procfs
from convgpu.sources.nvml import Gpu, GpuReading, GpuSource
from convgpu.sources.witness import Witness, WitnessBalance, WitnessEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at everything.

    Attributes:
        readings: NVML, by device.
        witness: Physical bytes by (pid, device); None while no witness runs.
        frees: Allocations that the witness saw end, ever, by (pid, device).
        requested: Live bytes as programs asked the CUDA runtime for them, by pid; None while no witness runs.
        containers: The container of each pid that NVML or the witness named; None for a process of the host.
    """

    readings: dict[GpuUuid, GpuReading]
    witness: dict[tuple[int, GpuUuid], int] | None
    requested: dict[int, int] | None
    containers: dict[int, ContainerId | None] = field(default_factory=dict)
    frees: dict[tuple[int, GpuUuid], int] = field(default_factory=dict)

    def nvml_bytes(self, gpu: GpuUuid, pids: Iterable[int]) -> int | None:
        """Return NVML's sum for some processes, None where NVML gave no figure."""
        reading = self.readings.get(gpu)
        if reading is None:
            return None
        total_bytes = 0
        for pid in pids:
            size_bytes = reading.process_bytes.get(pid, 0)
            if size_bytes is None:
                return None
            total_bytes += size_bytes
        return total_bytes

    def witness_bytes(self, gpu: GpuUuid, pids: Iterable[int]) -> int | None:
        """Return the witness's sum for some processes, None while no witness runs."""
        if self.witness is None:
            return None
        return sum(self.witness.get((pid, gpu), 0) for pid in pids)

    def pids_of(self, container: ContainerId) -> frozenset[int]:
        """Return the pids seen in a container."""
        return frozenset(pid for pid, owner in self.containers.items() if owner == container)


class Observer:
    """Asks witness and NVML, each in its own thread: bcc's tables and NVML calls take milliseconds.

    Args:
        witness: None: off by configuration.
    """

    def __init__(self, nvml: GpuSource, witness: Witness | None, gpus: tuple[Gpu, ...]) -> None:
        self._nvml = nvml
        self._witness = witness
        self._gpus = gpus
        self._running = False
        self._reason: str | None = "off by configuration" if witness is None else "starting"
        self._attached: set[tuple[int, int, str]] = set()
        self._ended: set[int] = set()
        self._containers: dict[tuple[int, int], ContainerId | None] = {}
        self._instances: dict[int, GpuUuid | None] = {}
        self._witness_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="witness")
        self._nvml_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nvml")

    @property
    def running(self) -> bool:
        """Whether the witness is attached."""
        return self._running

    async def start(self, libraries: Iterable[tuple[str, str]]) -> str | None:
        """Compile and attach the witness.

        Args:
            libraries: Paths and kinds (`libcuda`, `libcudart`) of the libraries known from the start.

        Returns:
            None when it runs, else why it does not.
        """
        if self._witness is None:
            return self._reason
        try:
            await self._in_witness_thread(self._witness.start)
        except ConvgpuError as error:
            self._reason = error.message
            return self._reason
        self._running = True
        self._reason = None
        for path, kind in libraries:
            await self.attach(path, kind)
        return None

    async def attach(self, path: str, kind: str) -> bool:
        """Attach the probes of one library; one that is attached already costs a lookup."""
        if not self._running or self._witness is None:
            return False
        try:
            status = Path(path).stat()
        except OSError:
            return False  # the process ended meanwhile, and its view of the file system with it
        identity = (status.st_dev, status.st_ino, kind)
        if identity in self._attached:
            return True  # hundreds of processes may say HELLO at once: none waits for the witness's thread in vain
        attached = bool(await self._in_witness_thread(self._witness.attach_library, path, kind))
        if attached:
            # The witness holds the file open, so its numbers cannot become another file's.
            self._attached.add(identity)
        return attached

    async def _in_witness_thread(self, work: object, *arguments: object) -> object:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._witness_thread, work, *arguments)  # type: ignore[arg-type]

    async def status(self) -> WitnessStatus:
        """Return the state of the witness."""
        if not self._running or self._witness is None:
            return WitnessStatus(running=False, reason=self._reason, attached=(), missing=(), lost={})
        status = await self._in_witness_thread(self._witness.status)
        assert isinstance(status, WitnessStatus)  # noqa: S101  # narrows the executor's untyped result
        return status

    async def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call."""
        if not self._running or self._witness is None:
            return []
        events = await self._in_witness_thread(self._witness.drain)
        assert isinstance(events, list)  # noqa: S101  # narrows the executor's untyped result
        return events

    def ended(self, pid: int) -> None:
        """A process ended: the witness drops what it kept of it with the next `forget_ended`."""
        self._ended.add(pid)

    async def forget_ended(self) -> None:
        """Drop what the witness kept of ended processes, all at once: it walks whole tables for one as for hundreds."""
        ended, self._ended = self._ended, set()
        if ended and self._running and self._witness is not None:
            await self._in_witness_thread(self._witness.forget_many, ended)

    async def look(self) -> Observation:
        """Measure now."""
        loop = asyncio.get_running_loop()
        readings_future = loop.run_in_executor(self._nvml_thread, self._nvml.read)
        balances: list[WitnessBalance] | None = None
        if self._running and self._witness is not None:
            balances = await loop.run_in_executor(self._witness_thread, self._witness.balances)
        readings = {reading.uuid: reading for reading in await readings_future}
        pids = {pid for reading in readings.values() for pid in reading.process_bytes}
        witness: dict[tuple[int, GpuUuid], int] | None = None
        requested: dict[int, int] | None = None
        frees: dict[tuple[int, GpuUuid], int] = {}
        if balances is not None:
            witness, requested = {}, {}
            for balance in balances:
                pids.add(balance.pid)
                requested[balance.pid] = requested.get(balance.pid, 0) + balance.runtime_bytes
                gpu = self._gpu_of_instance(balance.device_instance)
                self._instances[balance.device_instance] = gpu
                if gpu is not None:
                    key = (balance.pid, gpu)
                    witness[key] = witness.get(key, 0) + balance.physical_bytes
                    frees[key] = frees.get(key, 0) + balance.frees
        containers = {pid: self._container_of(pid) for pid in pids}
        return Observation(readings=readings, witness=witness, requested=requested, containers=containers, frees=frees)

    def gpu_of_instance(self, instance: int) -> GpuUuid | None:
        """Return the device of a driver's instance, as the last look knew it."""
        return self._gpus[0].uuid if len(self._gpus) == 1 else self._instances.get(instance)

    def _gpu_of_instance(self, instance: int) -> GpuUuid | None:
        """Map the driver's device instance, which is not NVML's index, through the PCI address that it tells."""
        if len(self._gpus) == 1:
            return self._gpus[0].uuid
        addresses = self._witness.device_map() if self._witness is not None else {}
        address = addresses.get(instance)
        for gpu in self._gpus:
            if address == (gpu.pci_domain, gpu.pci_bus, gpu.pci_device):
                return gpu.uuid
        return None

    def _container_of(self, pid: int) -> ContainerId | None:
        try:
            key = (pid, procfs.start_ticks(pid))
            if key not in self._containers:
                self._containers[key] = cgroup.container_of(pid)
            return self._containers[key]
        except procfs.ProcessGoneError:
            return None

    def prune(self, alive: Iterable[int]) -> None:
        """Drop remembered processes that nobody names any more."""
        keep = frozenset(alive)
        self._containers = {key: owner for key, owner in self._containers.items() if key[0] in keep}

    async def close(self, *, keep: bool) -> None:
        """Give NVML back and detach; with `keep`, the kernel goes on counting for the next daemon."""
        if self._witness is not None and self._running:
            self._running = False
            await self._in_witness_thread(functools.partial(self._witness.close, keep=keep))
        self._witness_thread.shutdown(wait=True)
        self._nvml_thread.shutdown(wait=True)
        self._nvml.close()
