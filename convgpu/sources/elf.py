# SPDX-License-Identifier: Apache-2.0
"""Where functions lie in an ELF file: enough to attach a probe to those that are there, and to no other.

bcc resolves an import that is not defined in the file to offset 0, and would probe the file's first byte.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

# elf(5): sizes and numbers of the 64-bit little-endian format.
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_MAGIC_64_LITTLE: Final = b"\x7fELF\x02\x01"
ALL_SYMBOLS: Final = 2  # SHT_SYMTAB
DYNAMIC_SYMBOLS: Final = 11  # SHT_DYNSYM
_PT_LOAD: Final = 1
_PF_X: Final = 1
_STT_FUNC: Final = 2
_SHN_UNDEF: Final = 0


class ElfError(Exception):
    """Not a file that probes can be attached to."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that is defined in the file.

    Attributes:
        name: Its symbol, without a version.
        address: Virtual address in the file's own layout.
        offset: Where its first byte is in the file: what a uprobe is bound to.
    """

    name: str
    address: int
    offset: int


class Section(NamedTuple):
    """A section header, as elf(5) has it."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Layout(NamedTuple):
    """Where the parts of a file lie: its segments' headers, and its sections'."""

    segments: list[tuple[int, ...]]
    sections: list[Section]

    def offset_of(self, address: int) -> int | None:
        """Return where in the file the code at an address of its own layout is."""
        for kind, flags, file_at, memory_at, _, size_bytes, _, _ in self.segments:
            if kind == _PT_LOAD and flags & _PF_X and memory_at <= address < memory_at + size_bytes:
                return address - memory_at + file_at
        return None

    def address_of(self, offset: int) -> int | None:
        """Return the address, in the file's own layout, of a byte of code."""
        for kind, flags, file_at, memory_at, _, size_bytes, _, _ in self.segments:
            if kind == _PT_LOAD and flags & _PF_X and file_at <= offset < file_at + size_bytes:
                return offset - file_at + memory_at
        return None


def find_functions(descriptor: int, names: Collection[str]) -> dict[str, Function]:
    """Return those of the named functions that the file defines, from its symbol table and its dynamic one.

    The file is read, never mapped: it may belong to a container, and one that shrinks while it is mapped kills its
    reader.

    Raises:
        ElfError: Not a 64-bit little-endian ELF file, or damaged.
    """
    try:
        return _find(descriptor, names)
    except (struct.error, IndexError) as error:
        raise ElfError(f"damaged ELF file: {error}") from error


def read_part(descriptor: int, offset: int, size: int) -> bytes:
    """Read so many bytes.

    Raises:
        ElfError: The file has less.
    """
    if offset + size > os.fstat(descriptor).st_size:
        raise ElfError("damaged ELF file: a part of it lies beyond its end")
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise ElfError("the file changed while it was read")
    return data


def _table(descriptor: int, layout: struct.Struct, offset: int, count: int, entry_size: int) -> list[tuple[int, ...]]:
    data = read_part(descriptor, offset, count * entry_size)
    return [layout.unpack_from(data, index * entry_size) for index in range(count)]


def read_layout(descriptor: int) -> Layout:
    """Read the headers.

    Raises:
        ElfError: Not a 64-bit little-endian ELF file.
        struct.error: Damaged.
    """
    if os.fstat(descriptor).st_size < _HEADER.size:
        raise ElfError("not an ELF file")
    header = _HEADER.unpack(read_part(descriptor, 0, _HEADER.size))
    if not header[0].startswith(_MAGIC_64_LITTLE):
        raise ElfError("not a 64-bit little-endian ELF file")
    segments_at, sections_at = header[5], header[6]
    segment_size, segment_count, section_size, section_count = header[9:13]
    return Layout(
        _table(descriptor, _SEGMENT, segments_at, segment_count, segment_size),
        [Section(*row) for row in _table(descriptor, _SECTION, sections_at, section_count, section_size)],
    )


def _find(descriptor: int, names: Collection[str]) -> dict[str, Function]:
    layout = read_layout(descriptor)
    found: dict[str, Function] = {}
    for section in layout.sections:
        if section.type not in (ALL_SYMBOLS, DYNAMIC_SYMBOLS):
            continue
        for name, address in _defined(descriptor, section, layout.sections[section.link], names):
            offset = layout.offset_of(address)
            if offset is not None:
                found.setdefault(name, Function(name, address, offset))
    return found


def _defined(descriptor: int, symbols: Section, strings: Section, names: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield name and address of the wanted functions of one symbol table.

    Names are looked up in the string table first: comparing numbers makes a table of a million symbols bearable.
    A linker may let a name begin inside another one, so every occurrence of it counts.
    """
    table = read_part(descriptor, strings.offset, strings.size)
    wanted: dict[int, str] = {}
    for name in names:
        # A version (`name@@VERSION`) stands in the name in the full table only.
        for match in re.finditer(re.escape(name.encode()) + rb"(?=\0|@)", table):
            wanted[match.start()] = name
    if not wanted:
        return
    entries = read_part(descriptor, symbols.offset, symbols.size // _SYMBOL.size * _SYMBOL.size)
    for name_at, info, _, section_index, address, _ in _SYMBOL.iter_unpack(entries):
        if name_at in wanted and info & 0xF == _STT_FUNC and section_index != _SHN_UNDEF and address:
            yield wanted[name_at], address
