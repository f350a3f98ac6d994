# SPDX-License-Identifier: Apache-2.0
"""Credit pages: one file a process, mapped by the process and by the daemon.

The layout and the rule that keeps it exact without a lock are in wrapper/include/convgpu_abi.h. Every access goes
through the page library, which uses the processor's atomic instructions; Python itself never writes into a page.
"""

from __future__ import annotations

import mmap
import os
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convgpu.core.identity import GpuUuid, ProcessKey
from convgpu.daemon.abi import load_abi
from convgpu.errors import ProtocolError
from convgpu.sources.nvml import Gpu

PAGE_SUFFIX: Final = ".page"
UNFINISHED_SUFFIX: Final = ".new"
_HEADER_FIELDS: Final = (
    "magic",
    "abi_version",
    "instance",
    "pid",
    "device_count",
    "start_ticks",
    "wanted",
    "fail_open",
)
_DEVICE_FIELDS: Final = ("limit_bytes", "pci_domain", "pci_bus", "pci_device", "nvml_index", "context_hint_bytes")
"""What the daemon alone writes, beside `uuid` and `granted_bytes`."""
_LOOKS_AT_CREDIT: Final = 2
"""Each of them is of one moment, unless the process allocates without pause; both wrong alike is as good as never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAccount:
    """One device's slot of a page at one moment; see `struct cvg_device_account`."""

    granted_bytes: int
    credit_bytes: int
    used_bytes: int
    reserved_bytes: int
    peak_bytes: int
    allocations: int
    frees: int
    refusals: int
    context_bytes: int
    managed_bytes: int

    @property
    def held_bytes(self) -> int:
        """What counts against the limit: video memory, and managed memory, which no process shows in NVML."""
        return self.used_bytes + self.managed_bytes

    @property
    def unexplained_bytes(self) -> int:
        """Granted bytes that the process knows nothing of: a message that a dying daemon never sent, at rest."""
        return self.granted_bytes - self.credit_bytes - self.held_bytes - self.reserved_bytes


class CreditPage:
    """The daemon's side of one page. Use `create` or `open`.

    Attributes:
        path: The file; named by the instance, in a folder that only root can enter.
        instance: The random number that names this account across restarts of the daemon.
        key: The process it belongs to.
        gpus: The device of each slot.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        abi = load_abi()
        self.path = path
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, abi.constant("CVG_PAGE_BYTES"))
        self._raw: Any = abi.ffi.from_buffer("struct cvg_page *", self._map, require_writable=True)
        self._lib = abi.lib
        self._ffi = abi.ffi
        self.instance: int = 0
        self.key = ProcessKey(0, 0)
        self.gpus: tuple[GpuUuid, ...] = ()
        self._load_identity()

    def _load_identity(self) -> None:
        self.instance = int(self._raw.instance)
        self.key = ProcessKey(int(self._raw.pid), int(self._raw.start_ticks))
        slots = range(int(self._raw.device_count))
        self.gpus = tuple(_uuid_text(bytes(self._raw.device[slot].uuid)) for slot in slots)
        self._header = {name: int(getattr(self._raw, name)) for name in _HEADER_FIELDS}
        self._devices = [
            {name: int(getattr(self._raw.device[slot], name)) for name in _DEVICE_FIELDS} for slot in slots
        ]

    @classmethod
    def create(cls, folder: Path, key: ProcessKey, gpus: Sequence[Gpu]) -> CreditPage:
        """Make a new page for a process, one slot for each device, in the order given."""
        abi = load_abi()
        instance = secrets.randbits(63) | 1
        path = folder / f"{instance:016x}{PAGE_SUFFIX}"
        unfinished = path.with_suffix(UNFINISHED_SUFFIX)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, abi.constant("CVG_PAGE_BYTES"))
        page = cls(path, descriptor)
        abi.lib.cvg_page_init(page._raw, instance, key.pid, key.start_ticks)
        for gpu in gpus:
            abi.lib.cvg_page_add_device(
                page._raw, _uuid_bytes(gpu.uuid), gpu.pci_domain, gpu.pci_bus, gpu.pci_device, gpu.index
            )
        page._load_identity()
        unfinished.rename(path)  # from here on it counts: a daemon that dies before leaves no half page behind
        return page

    @classmethod
    def open(cls, path: Path) -> CreditPage:
        """Map a page that an earlier daemon made.

        Raises:
            ProtocolError: Not a page of this version.
        """
        abi = load_abi()
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(descriptor).st_size != abi.constant("CVG_PAGE_BYTES"):
            os.close(descriptor)
            raise ProtocolError(f"{path} is not a credit page: wrong size")
        page = cls(path, descriptor)
        raw = page._raw
        if raw.magic != abi.constant("CVG_PAGE_MAGIC") or raw.abi_version != abi.constant("CVG_ABI_VERSION"):
            version = int(raw.abi_version)
            page.close()
            raise ProtocolError(
                f"{path} is a credit page of version {version}, this daemon speaks {abi.constant('CVG_ABI_VERSION')}",
                next_step="restart the containers that were started with the other version",
            )
        return page

    @property
    def descriptor(self) -> int:
        """The file descriptor that is sent to the process."""
        return self._descriptor

    @property
    def file_id(self) -> tuple[int, int]:
        """Device and inode number of the file, as /proc/PID/maps shows them."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino

    @property
    def estimated(self) -> bool:
        """Whether the process met a driver whose allocations it cannot read: its figures are the API's estimates."""
        return bool(self._raw.estimated)

    def altered(self, slot: int) -> tuple[str, ...]:
        """Return the names of fields that only the daemon writes, and that somebody else wrote.

        What an earlier daemon left in the page is taken as written; what each process writes is for it to write.
        """
        raw, device = self._raw, self._raw.device[slot]
        names = [name for name, value in self._header.items() if getattr(raw, name) != value]
        names += [name for name, value in self._devices[slot].items() if getattr(device, name) != value]
        if _uuid_text(bytes(device.uuid)) != self.gpus[slot]:
            names.append("uuid")
        return tuple(names)

    def read(self, slot: int) -> DeviceAccount:
        """Read one slot; the fields are read one by one, `granted` last, so `unexplained_bytes` is never negative."""
        out = self._ffi.new("struct cvg_device_account *")
        self._lib.cvg_page_read(self._raw, slot, out)
        return DeviceAccount(
            granted_bytes=out.granted_bytes,
            credit_bytes=out.credit_bytes,
            used_bytes=out.used_bytes,
            reserved_bytes=out.reserved_bytes,
            peak_bytes=out.peak_bytes,
            allocations=out.allocations,
            frees=out.frees,
            refusals=out.refusals,
            context_bytes=out.context_bytes,
            managed_bytes=out.managed_bytes,
        )

    def most_credit(self, slot: int, held_bytes: int) -> int:
        """Return the most idle credit that a process can have had which was granted so much: what is not in use.

        What it frees at this very moment may be seen twice, in use and as credit; so it is looked at more than once.
        """
        return max(
            held_bytes - account.held_bytes - account.reserved_bytes - account.credit_bytes
            for account in (self.read(slot) for _ in range(_LOOKS_AT_CREDIT))
        )

    def grant(self, slot: int, size_bytes: int) -> None:
        """Raise `granted`; the bytes themselves travel to the asker in the GRANTED message."""
        self._lib.cvg_page_grant(self._raw, slot, size_bytes)

    def ungrant(self, slot: int, size_bytes: int) -> None:
        """Take back a grant whose message nobody received."""
        self._lib.cvg_page_ungrant(self._raw, slot, size_bytes)

    def reclaim(self, slot: int) -> int:
        """Take the idle credit back and return how much it was, in bytes."""
        return int(self._lib.cvg_page_reclaim(self._raw, slot))

    def heal(self, slot: int, granted_bytes: int) -> None:
        """Set `granted` after a restart, once the unexplained part is known."""
        self._lib.cvg_page_set_granted(self._raw, slot, granted_bytes)

    def set_wanted(self, *, wanted: bool) -> None:
        """Tell the process that somebody waits, so that it announces its frees; or that nobody does."""
        self._header["wanted"] = int(wanted)
        self._lib.cvg_page_set_wanted(self._raw, int(wanted))

    def set_fail_open(self, *, fail_open: bool) -> None:
        """Tell the process what to do while no daemon answers: take memory unasked, or wait for one."""
        self._header["fail_open"] = int(fail_open)
        self._lib.cvg_page_set_fail_open(self._raw, int(fail_open))

    def set_limit(self, slot: int, limit_bytes: int) -> None:
        """Publish the container's limit, for display inside the container."""
        self._devices[slot]["limit_bytes"] = limit_bytes
        self._lib.cvg_page_set_limit(self._raw, slot, limit_bytes)

    def set_context_hint(self, slot: int, size_bytes: int) -> None:
        """Tell the process what a context costs on this device, so that it can wait for all of it at once."""
        self._devices[slot]["context_hint_bytes"] = size_bytes
        self._lib.cvg_page_set_context_hint(self._raw, slot, size_bytes)

    def close(self) -> None:
        """Unmap and close; the file stays for the next daemon."""
        if self._raw is not None:
            self._ffi.release(self._raw)
            self._raw = None
            self._map.close()
            os.close(self._descriptor)

    def discard(self) -> None:
        """The process is gone: close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def _uuid_bytes(gpu: GpuUuid) -> bytes:
    return uuid.UUID(gpu.removeprefix("GPU-")).bytes


def _uuid_text(raw: bytes) -> GpuUuid:
    return GpuUuid(f"GPU-{uuid.UUID(bytes=raw)}")
