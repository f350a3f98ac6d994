# SPDX-License-Identifier: Apache-2.0
"""Which function of an ELF file an address is in."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from typing import Final, NamedTuple

from convgpu.sources.elf import ALL_SYMBOLS, DYNAMIC_SYMBOLS, ElfError, Layout, Section, read_layout, read_part

MOST_SYMBOLS: Final = 2_000_000
"""In one table: reading more would take seconds and hundreds of megabytes. The dynamic table is looked at instead."""
_SYMBOL_BYTES: Final = 24
_NAME_BYTES: Final = 512
_FUNCTION: Final = 2  # STT_FUNC and STT_GNU_IFUNC of elf(5)
_INDIRECT_FUNCTION: Final = 10


class Place(NamedTuple):
    """A function, and how far into it."""

    function: str
    offset: int


class FunctionTable:
    """The functions that a file defines, by address.

    The file is read, never mapped: it may belong to a container. A table of a million symbols is read by slices of
    arrays, since a loop over its entries would take seconds.

    Args:
        descriptor: The open file.

    Raises:
        ElfError: Not a 64-bit little-endian ELF file, or damaged.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            self._layout = read_layout(descriptor)
            table = _best_table(self._layout)
            self._names_at, self._names_end = 0, 0
            entries: array[int] = array("Q")
            if table is not None:
                strings = self._layout.sections[table.link]
                self._names_at, self._names_end = strings.offset, strings.offset + strings.size
                whole = table.size // _SYMBOL_BYTES * _SYMBOL_BYTES
                entries.frombytes(read_part(descriptor, table.offset, whole))
        except (struct.error, IndexError) as error:
            raise ElfError(f"damaged ELF file: {error}") from error
        # An entry is three words: name, kind and section in the first, then address and size.
        heads, addresses, sizes = entries[0::3], entries[1::3], entries[2::3]
        order = sorted(
            (
                index
                for index, head in enumerate(heads)
                if (head >> 32 & 0xF) in (_FUNCTION, _INDIRECT_FUNCTION) and head >> 48 and addresses[index]
            ),
            key=addresses.__getitem__,
        )
        self._addresses = array("Q", (addresses[index] for index in order))
        self._sizes = array("Q", (sizes[index] for index in order))
        self._names = array("L", (heads[index] & 0xFFFFFFFF for index in order))
        self._known: dict[int, str] = {}

    def find(self, descriptor: int, file_offset: int) -> Place | None:
        """Return the function that holds a byte of the file; None: the table has none there.

        Args:
            descriptor: The same file, open.
            file_offset: Of the byte.
        """
        address = self._layout.address_of(file_offset)
        if address is None:
            return None
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        offset, size = address - self._addresses[index], self._sizes[index]
        if size and offset >= size:
            return None
        if index not in self._known:
            begin = self._names_at + self._names[index]
            data = read_part(descriptor, begin, max(0, min(_NAME_BYTES, self._names_end - begin)))
            self._known[index] = data.partition(b"\0")[0].decode(errors="replace")
        return Place(self._known[index], offset)


def _best_table(layout: Layout) -> Section | None:
    """Return the full table, which a stripped file lacks, or the dynamic one."""
    for kind in (ALL_SYMBOLS, DYNAMIC_SYMBOLS):
        for section in layout.sections:
            if section.type == kind and section.size // _SYMBOL_BYTES <= MOST_SYMBOLS:
                return section
    return None
