# SPDX-License-Identifier: Apache-2.0
"""How probes are attached: for as long as this process lives, or pinned, so that they outlive it.

A daemon that is killed must not lose what the witness counted. So maps are pinned in a bpf file system (CVG_PIN_DIR
in bpf/common.bpf.h), and each probe is a pinned BPF link: the kernel goes on counting while no daemon runs, and the
next one finds maps and probes. bcc cannot make such links; bpf_kernel.py can, from Linux 5.15 on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.bpf_kernel import SYSTEM_CALLS, UPROBE_UNIT, BpfKernel
from convgpu.sources.elf import Function

BPF_FILE_SYSTEM: Final = Path("/sys/fs/bpf")


class Attachment(Protocol):
    """One probe; what it is on goes on without it."""

    def detach(self) -> None:
        """Take it away."""


class Attacher(Protocol):
    """Attaches a loaded program to a place in the kernel or in a file."""

    def tracepoint(self, name: str, program: Any) -> None:
        """Attach to a tracepoint, `category:event`. Raises OSError or what bcc raises."""

    def function(self, function: Function, program: Any, descriptor: int, *, at_return: bool) -> Attachment:
        """Attach to a function in an open file, which may be closed then. Raises OSError."""

    def close(self) -> None:
        """Let go of what ends with this process."""


@dataclass(frozen=True, slots=True)
class _Pin:
    path: Path

    def detach(self) -> None:
        """Take the probe away."""
        self.path.unlink(missing_ok=True)


class PinnedAttacher:
    """Attaches by links that stay when this process ends; one that is pinned already is left as it is.

    Args:
        folder: Of a bpf file system; the one that the maps are pinned in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kernel = BpfKernel()

    def tracepoint(self, name: str, program: Any) -> None:
        """Attach to a tracepoint, unless that was done before."""
        pin = self._folder / f"link_{name.replace(':', '_')}"
        if not pin.exists():
            self._link(self._kernel.tracepoint_event(name), program, pin)

    def function(self, function: Function, program: Any, descriptor: int, *, at_return: bool) -> Attachment:
        """Attach to a function, unless that was done before.

        A uprobe keeps its inode from being used again, so device, inode and function name a place for good.
        """
        status = os.fstat(descriptor)
        end = "return" if at_return else "entry"
        pin = self._folder / f"link_{status.st_dev:x}_{status.st_ino:x}_{function.name}_{end}"
        if not pin.exists():
            self._link(self._kernel.function_event(function, descriptor, at_return=at_return), program, pin)
        return _Pin(pin)

    def _link(self, event: int, program: Any, pin: Path) -> None:
        try:
            link = self._kernel.event_link(event, program.fd)
        finally:
            os.close(event)  # the link holds it
        try:
            self._kernel.pin(link, pin)
        finally:
            os.close(link)

    def close(self) -> None:
        """Nothing of this ends with the process."""


class _Event:
    def __init__(self, descriptor: int, opened: set[_Event]) -> None:
        self._descriptor = descriptor
        self._opened = opened
        opened.add(self)

    def detach(self) -> None:
        """Take the probe away."""
        if self in self._opened:
            self._opened.discard(self)
            os.close(self._descriptor)


class ProcessAttacher:
    """Attaches probes that end with this process.

    Args:
        bpf: The compiled module, a `bcc.BPF`.
    """

    def __init__(self, bpf: Any) -> None:
        self._bpf = bpf
        self._kernel = BpfKernel()
        self._opened: set[_Event] = set()

    def tracepoint(self, name: str, program: Any) -> None:
        """Attach to a tracepoint."""
        self._bpf.attach_tracepoint(tp=name.encode(), fn_name=program.name)

    def function(self, function: Function, program: Any, descriptor: int, *, at_return: bool) -> Attachment:
        """Attach to a function. Not through bcc, which names a probe by a path and keeps one of that name only."""
        event = self._kernel.function_event(function, descriptor, at_return=at_return)
        try:
            self._kernel.run_at(event, program.fd)
        except OSError:
            os.close(event)
            raise
        return _Event(event, self._opened)

    def close(self) -> None:
        """Detach from all functions."""
        for event in tuple(self._opened):
            event.detach()


def pin_folder(owner: str, text: bytes) -> Path:
    """Make the folder for one daemon's pins, and drop what another version of the programs left there.

    Args:
        owner: What tells daemons on one machine apart, such as the run folder.
        text: The programs with all that shapes their maps: another text, another folder.

    Raises:
        EnvironmentMissingError: There is no bpf file system and none can be mounted, or this kernel has no links.
    """
    if platform.machine() not in SYSTEM_CALLS:
        raise EnvironmentMissingError(f"probes cannot be pinned on {platform.machine()}")
    if not UPROBE_UNIT.is_dir():
        raise EnvironmentMissingError("the kernel has no uprobe event source, so probes cannot be pinned")
    if not os.path.ismount(BPF_FILE_SYSTEM):
        done = subprocess.run(
            ["mount", "-t", "bpf", "bpf", str(BPF_FILE_SYSTEM)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EnvironmentMissingError(
                f"no bpf file system is mounted at {BPF_FILE_SYSTEM}: {done.stderr.strip()}",
                next_step=f"mount -t bpf bpf {BPF_FILE_SYSTEM}",
            )
    home = BPF_FILE_SYSTEM / f"convgpu-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"
    folder = home / hashlib.sha256(text).hexdigest()[:12]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in home.iterdir():
        if other != folder:
            remove_pins(other)
    return folder


def remove_pins(folder: Path) -> None:
    """Unpin all: probes are detached and maps go with the last process that has them open."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # the owner's folder, unless another version's pins are in it
