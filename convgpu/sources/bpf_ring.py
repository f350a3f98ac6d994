# SPDX-License-Identifier: Apache-2.0
"""A BPF ring buffer read in one piece: libbcc's own reader costs a call into Python for each record.

The layout is the kernel's interface (kernel/bpf/ringbuf.c, libbpf's ringbuf.c): a page that the reader may write, with
how far it has read; a page with how far records were written; then the data, mapped twice in a row, so that a record
at the end of the ring goes on without a break.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import Any, Final

from convgpu.sources.bpf_table import Layout

_BUSY: Final = 1 << 31  # BPF_RINGBUF_BUSY_BIT: reserved, and not yet written
_HEADER: Final = "II"  # length with flags; page offset, which is the kernel's own
_HEADER_BYTES: Final = 8
_POSITION: Final = struct.Struct("@Q")


class BpfRing:
    """One ring buffer whose records are all of one structure.

    Args:
        map_fd: The map.
        pages: Its size.
        layout: Of a record; the size is a multiple of 8, as the ring's own headers are.
    """

    def __init__(self, map_fd: int, pages: int, layout: Layout) -> None:
        if layout.size % 8:
            raise TypeError("a record's size must be a multiple of 8")
        self.fd = map_fd
        self._record_bytes = layout.size
        self._stride = _HEADER_BYTES + layout.size
        self._struct = struct.Struct(f"@{_HEADER}{layout.format}")
        self._size = pages * mmap.PAGESIZE
        self._reader_page = mmap.mmap(map_fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # Through ctypes, the position is written by one store: the kernel must never see half of it.
        self._read_up_to = ctypes.c_uint64.from_buffer(self._reader_page)
        self._ring = mmap.mmap(
            map_fd, mmap.PAGESIZE + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE
        )
        self._data = memoryview(self._ring)

    def take(self, limit: int) -> list[tuple[Any, ...]]:
        """Return the oldest records, at most so many, and give their room back; the first two values are the ring's."""
        begin = self._read_up_to.value
        (end,) = _POSITION.unpack_from(self._ring, 0)
        count = min((end - begin) // self._stride, limit)
        if not count:
            return []
        at = mmap.PAGESIZE + begin % self._size
        rows = list(self._struct.iter_unpack(self._data[at : at + count * self._stride]))
        for index, row in enumerate(rows):
            if row[0] != self._record_bytes:
                if not row[0] & _BUSY:
                    raise ValueError(f"a record of {row[0]} bytes in a ring of {self._record_bytes}")
                del rows[index:]  # what follows may be written, but is not in order yet
                break
        self._read_up_to.value = begin + len(rows) * self._stride
        return rows

    def close(self) -> None:
        """Unmap it."""
        del self._read_up_to
        self._data.release()
        self._ring.close()
        self._reader_page.close()
