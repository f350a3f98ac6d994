# SPDX-License-Identifier: Apache-2.0
"""What witness and NVML see, gathered off the event loop and sorted by container and process."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.status import WitnessStatus
from convgpu.daemon.baselines import Baselines
from convgpu.daemon.discovery import Discovery
from convgpu.daemon.owners import Owners
from convgpu.errors import ConvgpuError
from convgpu.sources.nvml import Gpu, GpuReading, GpuSource
from convgpu.sources.witness import Witness, WitnessBalance, WitnessEvent

SCAN_S: Final = 30.0
"""Between two looks at what all known processes have mapped."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at everything.

    Attributes:
        readings: NVML, by device.
        witness: Physical bytes by (pid, device); None while no witness runs.
        frees: Allocations that the witness saw end, ever, by (pid, device).
        requested: Live bytes as programs asked the CUDA runtime for them, stream-ordered ones as libcuda was asked for
            them, by pid; None while no witness runs.
        containers: The container of each pid that NVML or the witness named; None for a process of the host.
        partial: The pids that held memory when the witness came: that part of their figure is NVML's, measured once.
    """

    readings: dict[GpuUuid, GpuReading]
    witness: dict[tuple[int, GpuUuid], int] | None
    requested: dict[int, int] | None
    containers: dict[int, ContainerId | None] = field(default_factory=dict)
    partial: frozenset[int] = frozenset()
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

    A process that begins to use the driver wakes it: the CUDA libraries that it has mapped are watched at once.

    Args:
        witness: None: off by configuration.
    """

    def __init__(self, nvml: GpuSource, witness: Witness | None, gpus: tuple[Gpu, ...]) -> None:
        self._nvml = nvml
        self._witness = witness
        self._gpus = gpus
        self._running = False
        self._reason: str | None = "off by configuration" if witness is None else "starting"
        self._ended: set[int] = set()
        self._owners = Owners()
        self._baselines = Baselines()
        self._discovery = Discovery()
        self._next_scan_s = 0.0
        self._newcomers_fd: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
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
        self._baselines.begin()
        for path, kind in libraries:
            await self._in_witness_thread(self._witness.attach_library, path, kind)
        self._newcomers_fd = self._witness.newcomers_fd()
        if self._newcomers_fd is not None:
            asyncio.get_running_loop().add_reader(self._newcomers_fd, self._wake)
        await self._in_witness_thread(self._discovery.look_at_all, self._witness)
        return None

    def _wake(self) -> None:
        """Somebody begins to use the driver. The descriptor stays readable until the witness's thread has read it."""
        if self._newcomers_fd is None:
            return
        asyncio.get_running_loop().remove_reader(self._newcomers_fd)
        task = asyncio.get_running_loop().create_task(self._meet())
        self._tasks.add(task)
        task.add_done_callback(self._met)

    async def _meet(self) -> None:
        if self._witness is None:
            return
        for newcomer in await self._call(self._witness.newcomers):
            self._owners.of(newcomer.pid, newcomer.cgroup_id)
            await self.discover(newcomer.pid)

    def _met(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        loop = asyncio.get_running_loop()
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler({"message": "a newcomer was not looked at", "exception": task.exception()})
        if self._running and self._newcomers_fd is not None:
            loop.add_reader(self._newcomers_fd, self._wake)

    async def discover(self, pid: int) -> None:
        """Watch the CUDA libraries that a process has mapped; what is watched already costs a look at its maps."""
        if self._running and self._witness is not None:
            found = await asyncio.to_thread(self._discovery.find, pid)
            if not self._discovery.is_settled(found):
                await self._in_witness_thread(self._discovery.watch, self._witness, pid, found)

    async def _call(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._witness_thread, work)

    async def _in_witness_thread(self, work: object, *arguments: object) -> object:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._witness_thread, work, *arguments)  # type: ignore[arg-type]

    async def status(self) -> WitnessStatus:
        """Return the state of the witness."""
        if not self._running or self._witness is None:
            return WitnessStatus(running=False, reason=self._reason, attached=(), missing=(), lost={})
        status = await self._call(self._witness.status)
        return replace(status, missing=(*status.missing, *self._discovery.unseen()))

    async def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call."""
        if not self._running or self._witness is None:
            return []
        return await self._call(self._witness.drain)

    async def want_stacks(self, for_s: float) -> None:
        """Have events tell where they were called from, for so long."""
        if self._running and self._witness is not None:
            await self._in_witness_thread(self._witness.want_stacks, for_s)

    def ended(self, pid: int) -> None:
        """A process ended: the witness drops what it kept of it with the next `forget_ended`."""
        self._ended.add(pid)

    async def forget_ended(self) -> None:
        """Drop what the witness kept of ended processes, all at once: it walks whole tables for one as for hundreds."""
        ended, self._ended = self._ended, set()
        if ended and self._running and self._witness is not None:
            await self._in_witness_thread(self._witness.forget_many, ended)
            self._discovery.forget(ended)

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
        containers: dict[int, ContainerId | None] = {}
        partial: frozenset[int] = frozenset()
        frees: dict[tuple[int, GpuUuid], int] = {}
        if balances is not None:
            witness, requested = {}, {}
            for balance in balances:
                owner = self._owners.of(balance.pid, balance.cgroup_id)
                containers[balance.pid] = containers.get(balance.pid) or owner
                asked_bytes = balance.runtime_bytes + balance.driver_by_kind.get("pool", 0)
                requested[balance.pid] = requested.get(balance.pid, 0) + asked_bytes
                gpu = self._gpu_of_instance(balance.device_instance)
                self._instances[balance.device_instance] = gpu
                if gpu is not None:
                    key = (balance.pid, gpu)
                    witness[key] = witness.get(key, 0) + balance.physical_bytes
                    frees[key] = frees.get(key, 0) + balance.frees
            before = self._baselines.look(readings.values(), witness)
            for key, size_bytes in before.items():
                witness[key] = witness.get(key, 0) + size_bytes
            partial = frozenset(pid for pid, _ in before) | {each.pid for each in balances if each.partial}
        for pid in pids - containers.keys():
            containers[pid] = self._owners.of(pid)
        await self._scan()
        return Observation(
            readings=readings,
            witness=witness,
            requested=requested,
            containers=containers,
            partial=partial,
            frees=frees,
        )

    async def _scan(self) -> None:
        """Now and then: libraries that known processes mapped later, and probes that nobody needs any more."""
        now_s = time.monotonic()
        if self._running and self._witness is not None and now_s >= self._next_scan_s:
            self._next_scan_s = now_s + SCAN_S
            await self._in_witness_thread(self._discovery.scan, self._witness)

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

    def owner_of(self, pid: int, cgroup_id: int) -> ContainerId | None:
        """Return the container in which the kernel saw a process, ended ones included; None: the host's."""
        return self._owners.of(pid, cgroup_id)

    def prune(self, alive: Iterable[int]) -> None:
        """Drop remembered processes that nobody names any more."""
        self._owners.prune(alive)

    async def close(self, *, keep: bool) -> None:
        """Give NVML back and detach; with `keep`, the kernel goes on counting for the next daemon."""
        if self._newcomers_fd is not None:
            asyncio.get_running_loop().remove_reader(self._newcomers_fd)
            self._newcomers_fd = None
        for task in tuple(self._tasks):
            task.cancel()
        if self._witness is not None and self._running:
            self._running = False
            await self._in_witness_thread(functools.partial(self._witness.close, keep=keep))
        self._witness_thread.shutdown(wait=True)
        self._nvml_thread.shutdown(wait=True)
        self._nvml.close()
