# SPDX-License-Identifier: Apache-2.0
"""The small file that holds what neither the credit pages nor Docker know and a reboot must keep.

It is written whole and renamed into place, so that a reader finds the old one or the new one, never a half.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from convgpu.errors import ConvgpuError

STATE_VERSION: Final = 1


@dataclass(slots=True, kw_only=True)
class ContainerState:
    """One container. The maps are keyed by device UUID.

    Attributes:
        limit_bytes: A limit set by command; None: the label's or the default holds.
        guarantee_bytes: A guarantee set by command.
        default_limit_bytes: The limits that it was given because it named none; they are its as long as it runs,
            whatever the default is by then.
        default_guarantee_bytes: The guarantees with them.
        default_guarantee_fixed: They do not follow a limit set by command.
        annotations: Those of ConvGPU that its engine's API does not tell.
        group: Its group where its compose project decided, once it has begun; "": none. It is so as long as it runs.
        acted: Findings about it that something was done about, so that a restarted daemon does not do it again.
    """

    limit_bytes: int | None = None
    guarantee_bytes: int | None = None
    default_limit_bytes: dict[str, int] = field(default_factory=dict)
    default_guarantee_bytes: dict[str, int] = field(default_factory=dict)
    default_guarantee_fixed: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    acted: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class State:
    """The whole file.

    Attributes:
        boot_id: The boot that `witness_lost` belongs to.
        context_bytes: The most that a CUDA context was measured to cost, by device UUID.
        witness_lost: What the witness's loss counters read when they were last written to the log.
        containers: By full container id.
        groups: Limits of groups set by command, by group and device UUID; null: no limit, whatever is configured.
    """

    version: int = STATE_VERSION
    boot_id: str = ""
    context_bytes: dict[str, int] = field(default_factory=dict)
    witness_lost: dict[str, int] = field(default_factory=dict)
    containers: dict[str, ContainerState] = field(default_factory=dict)
    groups: dict[str, dict[str, int | None]] = field(default_factory=dict)


class StateFile:
    """Reads and writes the state.

    Attributes:
        state: What was read, or what is to be written next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""
        self.state = self._read()

    def _read(self) -> State:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return State()
        try:
            state = msgspec.json.decode(data, type=State)
        except msgspec.MsgspecError as error:
            raise ConvgpuError(
                f"the state file {self._path} cannot be read: {error}",
                next_step=f"move it away (`mv {self._path} {self._path}.bad`); limits set by command must be set again",
            ) from error
        if state.version != STATE_VERSION:
            raise ConvgpuError(
                f"the state file {self._path} has version {state.version}, this daemon writes {STATE_VERSION}",
                next_step="use the daemon that wrote it, or move the file away",
            )
        return state

    def container(self, container_id: str) -> ContainerState:
        """Return a container's entry, made where there is none."""
        return self.state.containers.setdefault(container_id, ContainerState())

    def forget(self, container_id: str) -> None:
        """Drop a container that Docker removed."""
        self.state.containers.pop(container_id, None)

    def save(self) -> None:
        """Write the file if anything changed; durable against a crash of the daemon, not of the machine."""
        data = msgspec.json.encode(self.state)
        if data == self._written:
            return
        partial = self._path.with_suffix(".new")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
        partial.replace(self._path)
        self._written = data
