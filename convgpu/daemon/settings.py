# SPDX-License-Identifier: Apache-2.0
"""Keeps a running daemon equal to its settings, and its capacities to what is held outside.

What is in the file takes effect at start, and again when the file is read again: all of it or, where it has a mistake,
nothing of it. Everything that changes the engine from here is in the log before what follows from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from convgpu.api import ConfigChange, ConfigStatus, SettingChange
from convgpu.config.forms import Scalar
from convgpu.config.keys import DaemonConfig, written
from convgpu.config.layers import InForce, Layers, differences, merged
from convgpu.config.listing import list_settings
from convgpu.core.algorithms import load_algorithm
from convgpu.core.engine import Engine
from convgpu.core.groups import GroupLimits
from convgpu.core.identity import GpuUuid
from convgpu.daemon.arbiter import Arbiter
from convgpu.daemon.capacity import Capacities, CapacityChange, check_devices
from convgpu.daemon.groups import Groups
from convgpu.daemon.journal import Journal
from convgpu.daemon.publishing import publish
from convgpu.daemon.registry import Registry
from convgpu.errors import ConvgpuError
from convgpu.sources.nvml import Gpu, GpuReading

_LOG: Final = logging.getLogger("convgpu.daemon")


def make_engine(
    config: DaemonConfig, gpus: tuple[Gpu, ...], capacities: Mapping[GpuUuid, int], groups: GroupLimits | None = None
) -> Engine:
    """Make the judge that the settings ask for.

    Raises:
        UsageError: There is no such algorithm.
    """
    engine = Engine(
        capacities,
        load_algorithm(config.algorithm),
        safe=config.safe,
        max_bypass=config.max_bypass,
        seed=config.seed,
        groups=groups,
    )
    for gpu in gpus:
        engine.set_safe(gpu.uuid, config.of_device(gpu.uuid, gpu.index).safe, 0)  # nobody is there to decide about
    return engine


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as the audit log has them."""
    return {name: _text(written(name, value)) for name, value in values.items()}


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Settings:
    """The settings of a running daemon.

    Args:
        layers: Where the settings are read again.
        in_force: What all rooms go by; replaced here only.

    Attributes:
        interval_changed: Set when the time between two rounds is another one.
    """

    def __init__(
        self,
        layers: Layers,
        in_force: InForce,
        gpus: tuple[Gpu, ...],
        capacities: Capacities,
        groups: Groups,
        registry: Registry,
        arbiter: Arbiter,
        journal: Journal,
    ) -> None:
        self._layers = layers
        self._in_force = in_force
        self._gpus = gpus
        self._capacities = capacities
        self._groups = groups
        self._registry = registry
        self._arbiter = arbiter
        self._journal = journal
        self._wanted = in_force.config
        publish(in_force.config)
        self.interval_changed = asyncio.Event()

    def status(self) -> ConfigStatus:
        """Return what is in force, and what a restart would change."""
        effective = self._in_force.effective
        return ConfigStatus(
            file=None if effective.file is None else str(effective.file),
            settings=list_settings(effective, self._wanted),
        )

    def reload(self, user_id: int | None = None) -> ConfigChange:
        """Read the configuration again, and bring into force what can be changed live.

        Args:
            user_id: Who asked, by the kernel's word; None: a signal.

        Raises:
            ConvgpuError: It has mistakes, or asks for what this machine does not have. Nothing has changed.
        """
        file = None if self._layers.file is None else str(self._layers.file)
        try:
            wanted = self._layers.read()
            check_devices(wanted.config, self._gpus)
            load_algorithm(wanted.config.algorithm)
            self._groups.check(wanted.config)
        except ConvgpuError as error:
            _LOG.warning("the configuration is not changed: %s", error.message)
            self._journal.write("config.rejected", reason=error.message, file=file, by_uid=user_id)
            raise
        old = self._in_force.effective
        new = merged(old, wanted)
        change = ConfigChange(
            file=None if wanted.file is None else str(wanted.file),
            changed=_changes(old.config, new.config),
            needs_restart=_changes(new.config, wanted.config),
        )
        self._in_force.effective = new
        self._wanted = wanted.config
        if change.changed or change.needs_restart:
            self._write(change, user_id)
        self._apply(old.config, new.config)
        _LOG.info(
            "configuration read again: %d settings changed, %d need a restart",
            len(change.changed),
            len(change.needs_restart),
        )
        return change

    def note_outside(self, readings: Iterable[GpuReading]) -> None:
        """Take in what NVML shows now: what is held outside lowers the capacity where none is configured."""
        held = self._registry.holdings()
        self._adjust(self._capacities.note(readings, held, self._arbiter.now_ns()))

    def _write(self, change: ConfigChange, user_id: int | None) -> None:
        self._journal.write(
            "config.changed",
            settings=_texts_of(change.changed, lambda each: each.new),
            old_settings=_texts_of(change.changed, lambda each: each.old),
            needs_restart=_texts_of(change.needs_restart, lambda each: each.new),
            file=change.file,
            by_uid=user_id,
        )

    def _apply(self, old: DaemonConfig, new: DaemonConfig) -> None:
        engine, arbiter = self._arbiter.engine, self._arbiter
        if old.algorithm != new.algorithm:
            self._journal.algorithm = new.algorithm
            arbiter.carry_out(engine.set_algorithm(load_algorithm(new.algorithm), arbiter.now_ns()))
        if old.max_bypass != new.max_bypass:
            arbiter.carry_out(engine.set_max_bypass(new.max_bypass, arbiter.now_ns()))
        for gpu in self._gpus:
            safe = new.of_device(gpu.uuid, gpu.index).safe
            if safe != old.of_device(gpu.uuid, gpu.index).safe:
                arbiter.carry_out(engine.set_safe(gpu.uuid, safe, arbiter.now_ns()))
        self._adjust(self._capacities.configure(new))
        self._groups.reconfigure()
        if old.fail_open != new.fail_open:
            for process in self._registry.processes.values():
                process.page.set_fail_open(fail_open=new.fail_open)
        publish(new)
        if old.interval_s != new.interval_s:
            self.interval_changed.set()

    def _adjust(self, changes: Iterable[CapacityChange]) -> None:
        for change in changes:
            self._journal.write(
                "capacity.changed",
                gpu=self._journal.gpu(change.gpu),
                old_capacity_bytes=change.old_bytes,
                capacity_bytes=change.new_bytes,
                external_bytes=change.external_bytes,
                reason=change.reason,
            )
            now_ns = self._arbiter.now_ns()
            self._arbiter.carry_out(self._arbiter.engine.set_capacity(change.gpu, change.new_bytes, now_ns))


def _changes(old: DaemonConfig, new: DaemonConfig) -> tuple[SettingChange, ...]:
    return tuple(SettingChange(key=name, old=was, new=now) for name, was, now in differences(old, new))


def _texts_of(changes: Iterable[SettingChange], value: Callable[[SettingChange], Scalar | None]) -> dict[str, str]:
    found = {change.key: value(change) for change in changes}
    return {name: _text(each) for name, each in found.items() if each is not None}
