# SPDX-License-Identifier: Apache-2.0
"""The daemon: joins judge, doors and log, and lives until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from convgpu import __version__
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import InForce, Layers
from convgpu.core.identity import ContainerId
from convgpu.daemon import guard
from convgpu.daemon.accounts import Accounts
from convgpu.daemon.admissions import Admissions
from convgpu.daemon.annotations import AnnotatedSource
from convgpu.daemon.arbiter import Arbiter
from convgpu.daemon.audit_log import AuditFailure, open_log
from convgpu.daemon.capacity import Capacities
from convgpu.daemon.clients import ClientServer
from convgpu.daemon.containers import Containers
from convgpu.daemon.control import ControlServer
from convgpu.daemon.discovery import known_libraries
from convgpu.daemon.groups import Groups, limits_in_force
from convgpu.daemon.journal import Journal
from convgpu.daemon.lock import only_one
from convgpu.daemon.loop import WakefulEventLoop
from convgpu.daemon.metering import Metering
from convgpu.daemon.observer import Observer
from convgpu.daemon.operations import Operations
from convgpu.daemon.overview import Overview
from convgpu.daemon.reconcile import Reconciler
from convgpu.daemon.registry import GuardedContainer, Registry, holdings_of
from convgpu.daemon.sentinel import Sentinel
from convgpu.daemon.settings import Settings, make_engine, texts
from convgpu.daemon.starts import Starts
from convgpu.daemon.state import StateFile
from convgpu.daemon.tracer import Tracer
from convgpu.errors import ConvgpuError, EnvironmentMissingError, UnknownContainerError
from convgpu.native import native_dir
from convgpu.oci.images import DockerImages, ImageSource
from convgpu.paths import AUDIT_LOG_NAME, STATE_FILE_NAME
from convgpu.sources import simgpu
from convgpu.sources.docker import ContainerEvent, ContainerFacts, ContainerSource, Docker
from convgpu.sources.nvml import GpuSource, Nvml
from convgpu.sources.witness import Witness

_LOG: Final = logging.getLogger("convgpu.daemon")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Service:
    """One running daemon. Built from its doors, so that tests hand it fakes that behave.

    Args:
        layers: Where its settings are read, now and again.
        docker: The container engine.
        nvml: The devices.
        witness: The eBPF side; None: off.
        images: Opens the engine's images.
    """

    def __init__(
        self,
        layers: Layers,
        docker: ContainerSource,
        nvml: GpuSource,
        witness: Witness | None,
        images: Callable[[], ImageSource] = DockerImages,
    ) -> None:
        in_force = InForce(layers.read())
        config = in_force.config
        self._in_force = in_force
        self._paths = config.paths
        self._nvml = nvml
        self._stopping = asyncio.Event()
        for folder in (config.paths.run_dir, config.paths.pages_dir, config.state_dir, config.log_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.paths.client_dir.mkdir(mode=0o755, exist_ok=True)
        # Containers' users reach the client socket through a bind mount of this folder only.
        config.paths.client_dir.chmod(0o755)
        self._lock = only_one(config.paths.run_dir)
        self.gpus = nvml.gpus()
        self.registry = Registry()
        self._state = StateFile(config.state_dir / STATE_FILE_NAME)
        self._docker = AnnotatedSource(docker, self._state)
        self._start_of_boot()
        self._accounts = Accounts(config.paths.accounts, self._state.state.boot_id)
        pages, self._unreadable = guard.surviving_pages(config.paths.pages_dir)
        # Of two looks the smaller counts: what is taken or given back between two figures of one is not outside.
        looks = [(nvml.read(), holdings_of(pages)) for _ in range(2)]
        capacities = Capacities(config, self.gpus, looks)
        group_limits = limits_in_force(config, self._state.state, self.gpus)
        self.engine = make_engine(config, self.gpus, capacities.in_force, group_limits)
        self.journal = Journal(open_log(config), self.registry, self.gpus, config.algorithm)
        self._audit_failure = AuditFailure(in_force, self.stop)
        self.journal.look_for_failure = self._audit_failure.look
        self.arbiter = Arbiter(
            self.engine, self.registry, self.journal, api_names=guard.api_names(), on_change=self._save
        )
        self.groups = Groups(
            in_force, self.engine, self.registry, self.journal, self._state, self.gpus, self.arbiter.carry_out
        )
        self.containers = Containers(
            in_force, self.engine, self.registry, self.journal, self._state, self._accounts, self.groups, self.gpus,
            self.arbiter.carry_out,
        )  # fmt: skip
        self.containers.on_first_process_end = self._first_process_ended
        self.observer = Observer(nvml, witness, self.gpus)
        self.guard = guard.Guard(
            config.paths.pages_dir, self.registry, self.engine, self.arbiter, self.containers, self.journal,
            self.observer, self._docker, self._state, in_force,
        )  # fmt: skip
        self.guard.surviving = pages
        self.admissions = Admissions(self._docker, self.registry, self.containers, self.guard, self.journal)
        self.arbiter.on_admission = self.admissions.decided
        self.sentinel = Sentinel(
            self.engine, self.registry, capacities, self.observer, self._docker, self.gpus, in_force, self.journal,
            self._state, self.guard.spawn,
        )  # fmt: skip
        self.arbiter.on_forged = self.sentinel.caught
        self.settings = Settings(
            layers, in_force, self.gpus, capacities, self.groups, self.registry, self.arbiter, self.journal
        )
        self.overview = Overview(
            self.engine,
            self.registry,
            self.gpus,
            in_force=in_force,
            capacities=capacities,
            groups=self.groups,
            sentinel=self.sentinel,
            driver=nvml.driver_version(),
            audit_path=str(config.log_dir / AUDIT_LOG_NAME),
        )
        tracer = Tracer(self.observer, self.registry, self.sentinel.strangers, self.gpus, self.guard.spawn)
        self.reconciler = Reconciler(
            in_force, self.settings, self.overview, self.observer, self.sentinel, tracer, self.journal,
            self._state, self.arbiter,
        )  # fmt: skip
        starts = Starts(
            self.registry, self.containers, self.guard, self.admissions, self._docker.remember, config.paths, images
        )
        operations = Operations(
            self.registry, self.containers, self.groups, self.admissions, starts, self.settings, self.overview,
            self.observer, self.journal, tracer, self._resolve,
        )  # fmt: skip
        self._control = ControlServer(config.paths.control_socket, operations.by_name())
        self._metering = Metering(config, operations.snapshot, self.journal.tally)

    def _start_of_boot(self) -> None:
        """After a reboot the kernel's counters begin anew."""
        boot_id = _BOOT_ID.read_text().strip()
        if self._state.state.boot_id != boot_id:
            self._state.state.boot_id = boot_id
            self._state.state.witness_lost.clear()

    def stop(self) -> None:
        """Let `run` come to its end; to be called in the loop."""
        self._stopping.set()

    def _reload(self) -> None:
        with contextlib.suppress(ConvgpuError):  # it is in the log by then, and the old settings hold
            self.settings.reload()

    async def run(self, *, signals: bool = True) -> None:
        """Serve until `stop`; where `signals` are this daemon's to handle, until SIGTERM or SIGINT. SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._metering.open()
        self._write_start()
        await self._restore()
        clients = ClientServer(self._paths.client_socket, self.guard)
        clients.start()
        await self._control.start()
        self._docker.watch(self._docker_event, self._docker_gap)
        tasks = [
            loop.create_task(self.journal.flush_forever()),
            loop.create_task(self._start_witness()),
            loop.create_task(self.reconciler.run_forever()),
        ]
        _LOG.info("serving %d GPU(s) at %s", len(self.gpus), self._paths.run_dir)
        stopped = loop.create_task(self._wait_for_stop())
        # A background task that ends is a fault: stop loudly rather than go on half blind.
        finished, _ = await asyncio.wait([*tasks[:1], tasks[2], stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop(clients)
        for task in finished:
            if task is not stopped:
                task.result()
        self._audit_failure.check()

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _stop(self, clients: ClientServer) -> None:
        """Leave the pages and the waiting processes as they are: the next daemon goes on from there."""
        self.guard.closing = True
        self.containers.save_accounts()
        clients.close()
        await self._metering.close()
        await self._control.close()
        self._docker.close()
        await self.observer.close(keep=bool(self.registry.processes))
        self.guard.close()
        self.journal.write("daemon.stop", reason="told to; what waits goes on waiting for the next daemon")
        self.journal.close()
        self._accounts.close()
        os.close(self._lock)

    def _write_start(self) -> None:
        config = self._in_force.config
        self.journal.write(
            "daemon.start",
            version=__version__,
            algorithm=config.algorithm,
            seed=config.seed,
            settings=texts(config.values()),
            kernel=os.uname().release,
            driver=self._nvml.driver_version(),
            simulated=config.simulated,
            safe=all(config.of_device(gpu.uuid, gpu.index).safe for gpu in self.gpus),
            limits=self.groups.records(),
            gpus=[
                {
                    "id": gpu.uuid,
                    "index": gpu.index,
                    "name": gpu.name,
                    "total_bytes": gpu.total_bytes,
                    "capacity_bytes": self.engine.capacity(gpu.uuid),
                    "turn": self._accounts.turn(gpu.uuid),
                }
                for gpu in self.gpus
            ],
        )

    async def _restore(self) -> None:
        """Take up what an earlier daemon left: containers by Docker's word, holdings by the credit pages."""
        for gpu in self.gpus:
            self.engine.restore_turn(gpu.uuid, self._accounts.turn(gpu.uuid))
        for facts in sorted(await asyncio.to_thread(self._docker.running), key=lambda facts: facts.created_ns):
            if self.containers.is_ours(facts) or self.guard.has_page(facts.container_id):
                self._register(facts)
        for message in self._unreadable:
            self.journal.write(
                "reconcile", reason=f"{message}; its process gets nothing more until it is started again"
            )
        self.containers.forget_accounts()
        await self.guard.adopt_surviving()

    def _register(self, facts: ContainerFacts) -> None:
        if not self.containers.still_running(facts):
            return
        try:
            self.containers.register(facts)
        except ConvgpuError as error:
            self.journal.write("reconcile", reason=f"container {facts.name} is not guarded: {error.message}")

    async def _start_witness(self) -> None:
        known: list[tuple[str, str]] = []
        if self._in_force.config.probes == "all":
            known = known_libraries(simulated=self._in_force.config.simulated)
        reason = await self.observer.start(known)
        for process in tuple(self.registry.processes.values()):
            await self.guard.attach_probes(process.key.pid)
        status = await self.observer.status()
        if reason is None:
            text = f"witness attached: {len(status.attached)} probes"
            if status.missing:
                text += f", missing: {', '.join(status.missing)}"
        else:
            text = f"no witness: {reason}"
        self.journal.write("reconcile", text, reason=text)

    def _docker_event(self, event: ContainerEvent) -> None:
        """Called in Docker's thread: move over to the loop."""
        self._loop_call(lambda: self.guard.spawn(self._follow(event)))

    def _docker_gap(self) -> None:
        self._loop_call(lambda: self.guard.spawn(self._list_again()))

    def _loop_call(self, work: Callable[[], None]) -> None:
        if not self.guard.closing:
            self.guard.loop.call_soon_threadsafe(work)

    async def _follow(self, event: ContainerEvent) -> None:
        self.sentinel.changed(event.container_id)
        if event.action == "destroy":
            waiting = self.registry.containers.get(event.container_id)
            if waiting is not None and waiting.starting:
                self.guard.end_container(waiting)
            self._state.forget(event.container_id)
            self._state.save()
            return
        facts = await asyncio.to_thread(self._docker.inspect, event.container_id)
        guarded = self.registry.containers.get(event.container_id)
        if guarded is not None:
            self._update(guarded, facts)
        elif facts is not None and event.action == "start" and self.containers.is_ours(facts):
            self._register(facts)

    def _update(self, guarded: GuardedContainer, facts: ContainerFacts | None) -> None:
        """Take over what Docker says of a guarded container now; None: it was removed."""
        if facts is None or not self.containers.still_there(guarded, facts):
            self.guard.end_container(guarded)
        else:
            self.containers.update(guarded, facts)

    async def _list_again(self) -> None:
        """The event stream began anew: what happened meanwhile shows in a listing."""
        listed = {facts.container_id: facts for facts in await asyncio.to_thread(self._docker.running)}
        for facts in listed.values():
            if self.containers.is_ours(facts) and facts.container_id not in self.registry.containers:
                self._register(facts)
        for guarded in tuple(self.registry.containers.values()):
            now = listed.get(guarded.container_id)
            if now is None or (now.name, now.state) != (guarded.name, guarded.facts.state):  # events may know more
                self._update(guarded, await asyncio.to_thread(self._docker.inspect, guarded.container_id))

    def _first_process_ended(self, container: ContainerId) -> None:
        guarded = self.registry.containers.get(container)
        if guarded is not None:
            self.guard.end_container(guarded)

    def _save(self) -> None:
        """Note changed assignments before any answer that depends on them is out."""
        self.containers.save_accounts()

    async def _resolve(self, text: str) -> GuardedContainer:
        """Find a guarded container, or begin to guard a running one that was started without a limit."""
        try:
            return self.registry.resolve(text)
        except UnknownContainerError:
            facts = await asyncio.to_thread(self._docker.inspect, text)
            if not self.containers.still_running(facts) or facts is None:
                raise
            return self.containers.register(facts)


def _witness(config: DaemonConfig) -> Witness | None:
    if config.probes == "off":
        return None
    from convgpu.sources.ebpf import BpfWitness  # bcc's bindings are loaded only where they are used

    probes: Literal["all", "physical"] = "physical" if config.probes == "physical" else "all"
    return BpfWitness(native_dir() / "bpf", probes=probes, owner=str(config.run_dir))


def run(layers: Layers) -> int:
    """Run a daemon in the foreground until it is told to stop; return the exit status.

    Raises:
        ConfigError: The configuration file has mistakes.
        EnvironmentMissingError: Not root, no Docker, no NVML.
        ConvgpuError: Another daemon runs, the state file is not readable, ...
    """
    if os.geteuid() != 0:
        raise EnvironmentMissingError(
            "the daemon needs root: it loads BPF programs, opens pidfds of other users' processes and talks to Docker",
            next_step="run `sudo convgpu daemon`",
        )
    logging.basicConfig(format="convgpu: %(message)s", level=logging.INFO)
    config = layers.read().config
    if config.simulated:
        simgpu.load_nvml()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        await Service(layers, Docker(), Nvml(), _witness(config)).run()

    with asyncio.Runner(loop_factory=WakefulEventLoop) as runner:
        runner.run(serve())
    return 0


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nothing is swallowed: what no caller handles goes to stderr, where the service manager keeps it."""
    loop.default_exception_handler(context)
