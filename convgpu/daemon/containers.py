# SPDX-License-Identifier: Apache-2.0
"""The containers' side of the daemon: quotas from labels and commands, start and end, names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from convgpu.api import DeviceLimit, LimitChange, LimitInfo
from convgpu.config.layers import InForce
from convgpu.core.decision import Decision
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GpuUuid, GroupName
from convgpu.core.ledger import Carried
from convgpu.core.quota import Quota
from convgpu.core.units import format_size
from convgpu.daemon.accounts import Accounts, SavedAccount
from convgpu.daemon.groups import Groups
from convgpu.daemon.journal import Journal
from convgpu.daemon.quotas import Share, refuse_impossible, same_on_all, with_limit
from convgpu.daemon.registry import GuardedContainer, GuardedProcess, Registry
from convgpu.daemon.shares import Shares
from convgpu.daemon.state import StateFile
from convgpu.errors import ConvgpuError, QuotaRefusedError, UsageError
from convgpu.oci.labels import LABEL_GROUP, LABEL_LIMIT, NAMES, parse_labels
from convgpu.sources import procfs
from convgpu.sources.docker import ContainerFacts
from convgpu.sources.nvml import Gpu

_RUNNING: Final = ("running", "paused", "restarting")


class Containers:
    """Registers containers with the engine and keeps their limits.

    Args:
        carry_out: Takes the decisions that a change brings about.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self,
        in_force: InForce,
        engine: Engine,
        registry: Registry,
        journal: Journal,
        state: StateFile,
        accounts: Accounts,
        groups: Groups,
        gpus: tuple[Gpu, ...],
        carry_out: Callable[[Iterable[Decision]], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._in_force = in_force
        self._engine = engine
        self._registry = registry
        self._journal = journal
        self._state = state
        self._accounts = accounts
        self._groups = groups
        self._shares = Shares(in_force, engine, state, groups)
        self._turns: dict[GpuUuid, int] = {}
        self._gpus = gpus
        self._carry_out = carry_out
        self._clock = clock
        self.on_first_process_end: Callable[[ContainerId], None] = lambda _: None

    def is_ours(self, facts: ContainerFacts) -> bool:
        """Tell whether a container asks to be guarded from its start, and not by another daemon of this machine."""
        asks = LABEL_LIMIT in facts.labels or LABEL_GROUP in facts.labels
        return asks and facts.client_dir in (None, str(self._in_force.config.paths.client_dir))

    def register(self, facts: ContainerFacts, queued_ns: int | None = None) -> GuardedContainer:
        """Set a container's share aside. One that is known already is returned as it is.

        Args:
            facts: What Docker says of it.
            queued_ns: Since when it waits for its whole guarantee before it starts, CLOCK_MONOTONIC; None: it runs.

        Raises:
            UsageError: A label has a bad value; the message names it.
            QuotaRefusedError: Its limit is larger than a device's capacity, or it has none and none is allowed.
        """
        known = self._registry.containers.get(facts.container_id)
        if known is not None:
            return known
        labels = parse_labels(facts.labels)
        gpus = self._devices_of(facts)
        saved = self._state.container(facts.container_id)
        accounts = self._accounts.of(facts.container_id)
        restored = bool(accounts) and queued_ns is None
        group = self._shares.group_of(facts, saved, restored=restored)
        share = self._shares.of(labels, gpus, saved, restored=restored, group=group)
        guarded = GuardedContainer(
            facts=facts,
            gpus=gpus,
            quotas=share.quotas,
            guarantee_fixed=share.guarantee_fixed,
            source=share.source,
            group=group,
            peak_bytes={gpu: account.peak_bytes for gpu, account in accounts.items()},
        )
        begin: Callable[..., list[Decision] | None] = partial(
            self._engine.start_container, queued_ns=queued_ns, now_ns=self._clock()
        )
        if restored:
            begin = partial(
                self._engine.restore_container,
                carried={gpu: account.carried() for gpu, account in accounts.items()},
            )
        decisions = begin(
            facts.container_id,
            facts.created_ns,
            share.quotas,
            wait_ns=labels.wait_ns,
            priority=labels.priority,
            group=group,
        )
        self._registry.containers[facts.container_id] = guarded
        guarded.starting = queued_ns is not None
        self._shares.note_default(saved, share)
        self._watch_first_process(guarded)
        for gpu in gpus:
            quota = share.quotas[gpu.uuid]
            assigned_bytes = self.assigned(guarded, gpu)
            self._journal.write(
                "container.seen",
                f"{guarded.name}: limit {format_size(quota.limit_bytes)} ({share.source}), guarantee "
                f"{format_size(quota.guarantee_bytes)}, assigned {format_size(assigned_bytes)} of GPU {gpu.index}",
                container=self._journal.container(guarded.container_id),
                gpu=self._journal.gpu(gpu.uuid),
                source=share.source,
                group=group,
                labels={name: value for name, value in facts.labels.items() if name in NAMES},
                created_ns=facts.created_ns,
                priority=labels.priority,
                wait_ns=labels.wait_ns,
                restored=restored,
                passed=accounts[gpu.uuid].passed if restored and gpu.uuid in accounts else 0,
                queued_ns=queued_ns,
                limit_bytes=quota.limit_bytes,
                guarantee_bytes=quota.guarantee_bytes,
                assigned_bytes=assigned_bytes,
            )
        self._carry_out(decisions or ())
        return guarded

    def assigned(self, guarded: GuardedContainer, gpu: Gpu) -> int:
        """Return what is set aside for a container on a device, in bytes."""
        return self._engine.account(guarded.container_id, gpu.uuid, self._clock()).assigned_bytes

    def _devices_of(self, facts: ContainerFacts) -> tuple[Gpu, ...]:
        if facts.device_minors is None and not facts.device_uuids:
            return self._gpus
        minors = facts.device_minors or frozenset()
        chosen = tuple(gpu for gpu in self._gpus if gpu.minor in minors or gpu.uuid in facts.device_uuids)
        if not chosen:
            raise UsageError(f"container {facts.name} was given devices that NVML does not list")
        return chosen

    def _watch_first_process(self, guarded: GuardedContainer) -> None:
        """Notice a container's end by its first process: tens of milliseconds before Docker reports it."""
        if guarded.facts.pid <= 0:
            return
        guarded.note_cgroup(guarded.facts.pid)
        with contextlib.suppress(procfs.ProcessGoneError):
            descriptor, _ = procfs.open_process(guarded.facts.pid)
            guarded.descriptor = descriptor
            asyncio.get_running_loop().add_reader(descriptor, self.on_first_process_end, guarded.container_id)

    def update(self, guarded: GuardedContainer, facts: ContainerFacts) -> None:
        """Note a new state or name; and the first process, which Docker may not have known when it was first asked."""
        guarded.facts = facts
        guarded.starting = guarded.starting and not self.still_running(facts)
        if guarded.descriptor is None:
            self._watch_first_process(guarded)

    def unwatch(self, guarded: GuardedContainer) -> None:
        """Stop watching a container's first process."""
        if guarded.descriptor is not None:
            asyncio.get_running_loop().remove_reader(guarded.descriptor)
            os.close(guarded.descriptor)
            guarded.descriptor = None

    def end(self, guarded: GuardedContainer) -> None:
        """A container stopped: its share is free. Its limit set by command stays until Docker removes it."""
        self.unwatch(guarded)
        self._journal.write("container.gone", container=self._journal.container(guarded.container_id))
        self._registry.remove(guarded)
        self._accounts.forget(guarded.container_id)
        self._shares.forget_group(guarded.container_id)
        decisions = self._engine.end_container(guarded.container_id, self._clock())
        self._carry_out(decisions)

    def info(self, guarded: GuardedContainer) -> LimitInfo:
        """Return a container's limit as the API shows it."""
        return LimitInfo(
            container_id=guarded.container_id,
            name=guarded.name,
            limit_bytes=guarded.limit_bytes,
            guarantee_bytes=guarded.guarantee_bytes,
            source=guarded.source,
            devices=tuple(
                DeviceLimit(
                    uuid=gpu.uuid,
                    index=gpu.index,
                    limit_bytes=guarded.quotas[gpu.uuid].limit_bytes,
                    guarantee_bytes=guarded.quotas[gpu.uuid].guarantee_bytes,
                )
                for gpu in guarded.gpus
            ),
        )

    def set_limit(
        self, guarded: GuardedContainer, limit_bytes: int, guarantee_bytes: int | None, user_id: int
    ) -> LimitChange:
        """Change a limit by command; all devices or none.

        Raises:
            QuotaRefusedError: Larger than a device, or not free of deadlock; nothing was changed.
        """
        if guarantee_bytes is None:
            quotas = with_limit(guarded.quotas, limit_bytes, guarded.guarantee_fixed)
            share = Share(quotas, "command", guarded.guarantee_fixed)
        else:
            share = same_on_all(guarded.gpus, limit_bytes, guarantee_bytes, "command")
        change = self._change(guarded, share, "limit.set", user_id)
        saved = self._state.container(guarded.container_id)
        saved.limit_bytes = limit_bytes
        # Guarantees that differ are shares of the devices, by default: they are in the state already.
        same = len({quota.guarantee_bytes for quota in share.quotas.values()}) == 1
        saved.guarantee_bytes = guarded.guarantee_bytes if share.guarantee_fixed and same else None
        self._state.save()
        return change

    def remove_limit(self, guarded: GuardedContainer, user_id: int) -> LimitChange:
        """Go back to the label or the default.

        Raises:
            ConvgpuError: No limit was set by command.
        """
        if guarded.source != "command":
            raise ConvgpuError(f"{guarded.name} has no limit set by command; its limit is from its {guarded.source}")
        saved = self._state.container(guarded.container_id)
        labels = parse_labels(guarded.facts.labels)
        share = self._shares.own(labels, guarded.gpus, saved, restored=True, group=guarded.group)
        change = self._change(guarded, share, "limit.removed", user_id)
        saved.limit_bytes = saved.guarantee_bytes = None
        self._state.save()
        return change

    def _change(self, guarded: GuardedContainer, share: Share, record_type: str, user_id: int) -> LimitChange:
        old, new = guarded.quotas, share.quotas
        old_limit_bytes = guarded.limit_bytes
        write = partial(self._write_change, record_type, guarded, source=share.source, by_uid=user_id)
        decisions: list[Decision] = []
        done: list[Gpu] = []
        try:
            for gpu in guarded.gpus:
                decisions += self._engine.set_quota(guarded.container_id, gpu.uuid, new[gpu.uuid], self._clock())
                done.append(gpu)
        except QuotaRefusedError:
            for gpu in done:
                decisions += self._engine.set_quota(guarded.container_id, gpu.uuid, old[gpu.uuid], self._clock())
            # For a moment it was so: what that brought about would have no cause in the log.
            write(done, old, new)
            write(done, new, old, reason="taken back: another of its devices cannot give as much")
            self._carry_out(decisions)
            raise
        guarded.quotas, guarded.guarantee_fixed, guarded.source = new, share.guarantee_fixed, share.source
        for process in self._registry.processes_of(guarded.container_id):
            for slot, uuid in enumerate(process.page.gpus):
                process.page.set_limit(slot, self._engine.most_bytes(guarded.container_id, uuid))
        write(guarded.gpus, old, new)
        self._carry_out(decisions)
        return LimitChange(
            container_id=guarded.container_id,
            name=guarded.name,
            old_limit_bytes=old_limit_bytes,
            new_limit_bytes=guarded.limit_bytes,
            used_bytes=max(self._registry.held_bytes(guarded.container_id, gpu.uuid) for gpu in guarded.gpus),
        )

    def _write_change(
        self,
        record_type: str,
        guarded: GuardedContainer,
        gpus: Iterable[Gpu],
        old: Mapping[GpuUuid, Quota],
        new: Mapping[GpuUuid, Quota],
        **more: Any,
    ) -> None:
        for gpu in gpus:
            self._journal.write(
                record_type,
                container=self._journal.container(guarded.container_id),
                gpu=self._journal.gpu(gpu.uuid),
                old_limit_bytes=old[gpu.uuid].limit_bytes,
                old_guarantee_bytes=old[gpu.uuid].guarantee_bytes,
                limit_bytes=new[gpu.uuid].limit_bytes,
                guarantee_bytes=new[gpu.uuid].guarantee_bytes,
                **more,
            )

    def check_start(self, limit_bytes: int | None, guarantee_bytes: int | None, group: GroupName | None = None) -> None:
        """Refuse a quota that no container of a group could ever have.

        Raises:
            QuotaRefusedError: Larger than the largest device, or than the group's limit; the message says both numbers.
            UsageError: The guarantee is larger than the limit.
        """
        if limit_bytes is not None:
            refuse_impossible(limit_bytes, guarantee_bytes, (self._engine.capacity(gpu.uuid) for gpu in self._gpus))
        self._groups.check_start(group, limit_bytes)

    def note_peak(self, process: GuardedProcess) -> None:
        """Keep the peak of a process that ends; its page goes with it."""
        guarded = self._registry.containers.get(process.container)
        if guarded is None:
            return
        for slot, gpu in enumerate(process.page.gpus):
            peak_bytes = process.page.read(slot).peak_bytes
            if peak_bytes > guarded.peak_bytes.get(gpu, 0):
                guarded.peak_bytes[gpu] = peak_bytes
                self._save(guarded.container_id, gpu, self._engine.carried(guarded.container_id, gpu))

    def forget_accounts(self) -> None:
        """After a restart: drop what was saved of containers that ended while no daemon ran."""
        for container in self._accounts.containers() - self._registry.containers.keys():
            self._accounts.forget(container)
        for identifier in self._state.state.containers.keys() - self._registry.containers.keys():
            self._shares.forget_group(ContainerId(identifier))

    def save_accounts(self) -> None:
        """Store what the engine changed, so that a daemon that starts after this one's sudden end goes on from it."""
        for container, gpu, carried in self._engine.take_altered():
            self._save(container, gpu, carried)

    def _save(self, container: ContainerId, gpu: GpuUuid, carried: Carried) -> None:
        guarded = self._registry.containers.get(container)
        peak_bytes = guarded.peak_bytes.get(gpu, 0) if guarded is not None else 0
        self._accounts.put(container, gpu, SavedAccount(*carried, peak_bytes))
        turn = self._engine.turn(gpu)
        if turn != self._turns.get(gpu):
            self._turns[gpu] = turn
            self._accounts.put(None, gpu, SavedAccount(turn=turn))

    def still_there(self, guarded: GuardedContainer, facts: ContainerFacts) -> bool:
        """Tell whether a guarded container runs, or is to be started when it was admitted."""
        return self.still_running(facts) or (guarded.starting and facts.state == "created")

    def still_running(self, facts: ContainerFacts | None) -> bool:
        """Tell whether a container's processes exist, by Docker's word and by its first process, where it names one."""
        if facts is None or facts.state not in _RUNNING:
            return False
        if facts.pid <= 0:
            return True
        try:
            procfs.start_ticks(facts.pid)
        except procfs.ProcessGoneError:
            return False
        return True
