# SPDX-License-Identifier: Apache-2.0
"""What changes with every decision and must outlive the daemon, however it ends: a mapped file of fixed slots.

One slot for each container on each device, and one for each device. A change is a few stores into the mapping: the
kernel keeps them when the daemon is killed, and no decision waits for a write. What a crash of the machine loses is
meaningless after it: no container of that boot runs any more, so the file begins empty on every boot.
"""

from __future__ import annotations

import mmap
import os
import struct
import uuid
from pathlib import Path
from typing import Final, NamedTuple

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.ledger import Carried
from convgpu.errors import ConvgpuError

ACCOUNTS_VERSION: Final = 1
_MAGIC: Final = b"CVGACCTS"
_HEADER: Final = struct.Struct("<8sQ16s")
"""Magic, version, the boot that the figures belong to."""
_SLOT: Final = struct.Struct("<32s16s6Q")
"""Container id, device UUID, then the fields of `SavedAccount`."""
_SLOT_BYTES: Final = 128
"""A power of two above the size of a slot: two cache lines, so that no slot shares one with another."""
_FIRST_SLOTS: Final = 64
_NO_CONTAINER: Final = bytes(32)


class SavedAccount(NamedTuple):
    """One container on one device; for a device by itself, only `turn` means something.

    Attributes:
        assigned_bytes: As in `Carried`, like the three after it.
        peak_bytes: The most that it was seen to hold.
        turn: How often something of the device was given away.
    """

    assigned_bytes: int = 0
    denied: int = 0
    suspended_ns: int = 0
    passed: int = 0
    peak_bytes: int = 0
    turn: int = 0

    def carried(self) -> Carried:
        """The engine's part of it."""
        return Carried(*self[: len(Carried._fields)])


class Accounts:
    """The file. One daemon at a time has it.

    Args:
        path: Where it is, in the run folder.
        boot_id: The kernel's id of this boot; a file of another boot is begun anew.

    Raises:
        ConvgpuError: It is a file of another version, or none of ours.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        boot = uuid.UUID(boot_id).bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size_bytes = os.fstat(self._descriptor).st_size
        if size_bytes >= _SLOT_BYTES:
            magic, version, of_boot = _HEADER.unpack(os.pread(self._descriptor, _HEADER.size, 0))
            if magic != _MAGIC or version != ACCOUNTS_VERSION:
                os.close(self._descriptor)
                raise ConvgpuError(
                    f"{path} is not a file of accounts of version {ACCOUNTS_VERSION}",
                    next_step=f"use the daemon that wrote it, or end all guarded containers and remove {path}",
                )
            if of_boot != boot:
                size_bytes = 0
        if size_bytes < _SLOT_BYTES:
            os.ftruncate(self._descriptor, 0)
            size_bytes = (1 + _FIRST_SLOTS) * _SLOT_BYTES
            os.ftruncate(self._descriptor, size_bytes)
            os.pwrite(self._descriptor, _HEADER.pack(_MAGIC, ACCOUNTS_VERSION, boot), 0)
        self._map = mmap.mmap(self._descriptor, size_bytes)
        self._free: list[int] = []
        self._slots: dict[tuple[ContainerId | None, GpuUuid], int] = {}
        for offset in range(_SLOT_BYTES, size_bytes - _SLOT_BYTES + 1, _SLOT_BYTES):
            container, gpu, *_ = _SLOT.unpack_from(self._map, offset)
            if any(gpu):
                self._slots[_key(container, gpu)] = offset
            else:
                self._free.append(offset)
        self._free.reverse()

    def of(self, container: ContainerId) -> dict[GpuUuid, SavedAccount]:
        """Return what was saved of a container, by device; empty: nothing."""
        return {gpu: self._read(offset) for (of, gpu), offset in self._slots.items() if of == container}

    def containers(self) -> set[ContainerId]:
        """Return all of which something is saved."""
        return {container for container, _ in self._slots if container is not None}

    def turn(self, gpu: GpuUuid) -> int:
        """Return how often something of the device was given away."""
        offset = self._slots.get((None, gpu))
        return 0 if offset is None else self._read(offset).turn

    def put(self, container: ContainerId | None, gpu: GpuUuid, account: SavedAccount) -> None:
        """Save a container on a device, or, for no container, the device itself."""
        offset = self._slots.get((container, gpu))
        if offset is None:
            offset = self._take_slot()
            self._slots[container, gpu] = offset
        identity = bytes.fromhex(container) if container is not None else _NO_CONTAINER
        _SLOT.pack_into(self._map, offset, identity, uuid.UUID(gpu.removeprefix("GPU-")).bytes, *account)

    def forget(self, container: ContainerId) -> None:
        """A container stopped: nothing of it is saved any more."""
        for key in [key for key in self._slots if key[0] == container]:
            offset = self._slots.pop(key)
            self._map[offset : offset + _SLOT_BYTES] = bytes(_SLOT_BYTES)
            self._free.append(offset)

    def close(self) -> None:
        """Unmap; the file stays for the next daemon."""
        self._map.close()
        os.close(self._descriptor)

    def _read(self, offset: int) -> SavedAccount:
        return SavedAccount(*_SLOT.unpack_from(self._map, offset)[2:])

    def _take_slot(self) -> int:
        if not self._free:
            old_bytes = len(self._map)
            os.ftruncate(self._descriptor, 2 * old_bytes)
            self._map.resize(2 * old_bytes)
            self._free = list(range(2 * old_bytes - _SLOT_BYTES, old_bytes - 1, -_SLOT_BYTES))
        return self._free.pop()


def _key(container: bytes, gpu: bytes) -> tuple[ContainerId | None, GpuUuid]:
    device = GpuUuid(f"GPU-{uuid.UUID(bytes=gpu)}")
    return (ContainerId(container.hex()) if any(container) else None, device)
