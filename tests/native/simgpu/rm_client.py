# SPDX-License-Identifier: Apache-2.0
"""Speaks to the resource manager in bytes, as the ioctls have them: no library of ours in between.

Layouts: NVOS21, NVOS64, NVOS00, NVOS54, NVOS55 and nv_ioctl_xfer_t of NVIDIA's open kernel modules, written out here on
purpose: the tests must not take them from what they test.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path

ROOT_CLIENT, DEVICE, SUBDEVICE, MEMORY, SYSTEM_MEMORY = 0x41, 0x80, 0x2080, 0x40, 0x3E
OK, NO_MEMORY = 0, 0x51
INVALID_ADDRESS, INVALID_CLIENT, INVALID_DEVICE = 0x1E, 0x23, 0x26
INVALID_PARENT, NOT_SUPPORTED, NOT_FOUND, DUPLICATE = 0x36, 0x56, 0x57, 0x19
VIRTUAL = 0x00080000

ALLOC, FREE, CONTROL, DUP, ALLOC_MEMORY, XFER = 0x2B, 0x29, 0x2A, 0x34, 0x27, 211


def iowr(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | ord("F") << 8 | number


class RmClient:
    """One open nvidiactl and one client on it. Every call returns the status, or status and answer."""

    def __init__(self, device_dir: Path, file: str = "nvidiactl") -> None:
        self.descriptor = os.open(device_dir / file, os.O_RDWR | os.O_CLOEXEC)
        status, self.client = self.allocate(0, ROOT_CLIENT)
        assert status == OK

    def close(self) -> None:
        os.close(self.descriptor)

    def issue(self, number: int, block: bytes, *, wrapped: bool = False) -> bytes:
        """Send a block, wrapped in NV_ESC_IOCTL_XFER_CMD or not, and return it as it came back."""
        held = ctypes.create_string_buffer(block, len(block))
        if wrapped:
            outer = struct.pack("<IIQ", number, len(block), ctypes.addressof(held))
            fcntl.ioctl(self.descriptor, iowr(XFER, len(outer)), bytearray(outer))
            return held.raw
        answer = bytearray(block)
        fcntl.ioctl(self.descriptor, iowr(number, len(block)), answer)
        return bytes(answer)

    def allocate(
        self,
        parent: int,
        class_id: int,
        *,
        handle: int = 0,
        parameters: bytes = b"",
        address: int | None = None,
        short: bool = False,
        flags: int = 0,
        client: int | None = None,
        wrapped: bool = False,
    ) -> tuple[int, int]:
        """RM_ALLOC in its 48-byte form or the 32-byte one; afterwards `answered` holds the parameters as they are."""
        held = ctypes.create_string_buffer(parameters, max(len(parameters), 1))
        where = address if address is not None else ctypes.addressof(held) if parameters else 0
        owner = client if client is not None else getattr(self, "client", 0)
        head = struct.pack("<IIIIQ", owner, parent, handle, class_id, where)
        tail = (
            struct.pack("<II", len(parameters), 0) if short else struct.pack("<QIIII", 0, len(parameters), flags, 0, 0)
        )
        answer = self.issue(ALLOC, head + tail, wrapped=wrapped)
        self.answered = held.raw
        (new,) = struct.unpack_from("<I", answer, 8)
        (status,) = struct.unpack_from("<I", answer, 28 if short else 40)
        return status, new

    def device(self, instance: int = 0, handle: int = 0) -> int:
        status, new = self.allocate(self.client, DEVICE, handle=handle, parameters=struct.pack("<I52x", instance))
        assert status == OK
        return new

    def memory(
        self, parent: int, size_bytes: int, *, flags: int = 0, length: int = 128, **how: object
    ) -> tuple[int, int]:
        """Video memory; afterwards `taken_bytes` is the size that the resource manager wrote back."""
        parameters = bytearray(length)
        struct.pack_into("<I", parameters, 8, flags)
        struct.pack_into("<Q", parameters, 64, size_bytes)
        result = self.allocate(parent, MEMORY, parameters=bytes(parameters), **how)  # type: ignore[arg-type]
        (self.taken_bytes,) = struct.unpack_from("<Q", self.answered, 64)
        return result

    def free(self, handle: int, *, client: int | None = None, wrapped: bool = False) -> int:
        block = struct.pack("<IIII", self.client if client is None else client, 0, handle, 0)
        return int(struct.unpack_from("<I", self.issue(FREE, block, wrapped=wrapped), 12)[0])

    def duplicate(self, parent: int, source_client: int, source: int) -> tuple[int, int]:
        block = struct.pack("<IIIIIII", self.client, parent, 0, source_client, source, 0, 0)
        answer = struct.unpack("<IIIIIII", self.issue(DUP, block))
        return answer[6], answer[2]

    def control(self, command: int, parameters: bytes) -> tuple[int, bytes]:
        held = ctypes.create_string_buffer(parameters, len(parameters))
        block = struct.pack(
            "<IIIIQII", self.client, self.client, command, 0, ctypes.addressof(held), len(parameters), 0
        )
        (status,) = struct.unpack_from("<I", self.issue(CONTROL, block), 28)
        return status, held.raw
