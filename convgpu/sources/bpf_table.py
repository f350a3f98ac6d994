# SPDX-License-Identifier: Apache-2.0
"""A BPF map read in one piece: bcc's own iteration costs two system calls an entry and can repeat itself.

Layouts come from the C sources, as bcc describes them: there is no second definition of a structure in Python.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

_FIRST_BATCH: Final = 4096


class Layout:
    """How to unpack a C structure or scalar that bcc describes as a ctypes class.

    Fields are scalars, arrays of char (one value, bytes), arrays of numbers or structures (one value, a tuple); native
    alignment is C's. A scalar counts as one field called `value`.

    Attributes:
        format: The codes of the `struct` module, without a byte order.
        names: The fields, in order.
        values: How many values it unpacks to.
        size: In bytes.
    """

    def __init__(self, ctype: Any) -> None:
        fields = getattr(ctype, "_fields_", [("value", ctype)])
        self.format = ""
        self.places: dict[str, int | slice] = {}
        at = 0
        for name, kind in fields:
            code, count = _code_of(kind)
            self.format += code
            self.places[name] = at if count is None else slice(at, at + count)
            at += 1 if count is None else count
        self.values = at
        self._struct = struct.Struct("@" + self.format)
        if self._struct.size != ctypes.sizeof(ctype):
            raise TypeError(f"{ctype.__name__} ends in padding, which the programs' structures must not")
        self.names: tuple[str, ...] = tuple(self.places)
        self.size = self._struct.size
        self.pack = self._struct.pack
        self.unpack_from = self._struct.unpack_from


def _code_of(kind: Any) -> tuple[str, int | None]:
    """Return the `struct` code of a field, and for one that is a tuple how many values it makes."""
    if issubclass(kind, ctypes.Structure):
        inner = Layout(kind)
        return inner.format, inner.values
    if not issubclass(kind, ctypes.Array):
        return kind._type_, None
    if kind._type_ is ctypes.c_char:
        return f"{kind._length_}s", None
    return f"{kind._length_}{kind._type_._type_}", kind._length_


class Row:
    """One key or entry: the fields of its C structure as attributes."""

    __slots__ = ("_layout", "_values")

    def __init__(self, layout: Layout, values: tuple[Any, ...]) -> None:
        self._layout = layout
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[self._layout.places[name]]
        except KeyError:
            raise AttributeError(name) from None

    def packed(self) -> bytes:
        """Return it as the kernel stores it."""
        return self._layout.pack(*self._values)


class BpfTable:
    """One hash map.

    Args:
        bcc: The loaded package.
        bpf: The compiled module, a `bcc.BPF`.
        name: The map's name in the C source.
    """

    def __init__(self, bcc: ModuleType, bpf: Any, name: str) -> None:
        self._lib = bcc.lib
        self._table = bpf[name.encode()]  # bcc warns of every name that is not bytes
        self._key = Layout(self._table.Key)
        self._leaf = Layout(self._table.Leaf)
        self._batch = _FIRST_BATCH

    def items(self) -> list[tuple[Row, Row]]:
        """Return all entries as pairs of key and value.

        Raises:
            OSError: The kernel does not hand out the map.
        """
        position = ctypes.c_uint32()
        items: list[tuple[Row, Row]] = []
        started = False
        while True:
            count = ctypes.c_uint32(self._batch)
            keys = ctypes.create_string_buffer(self._batch * self._key.size)
            leaves = ctypes.create_string_buffer(self._batch * self._leaf.size)
            failed = self._lib.bpf_lookup_batch(
                self._table.map_fd,
                ctypes.byref(position) if started else None,
                ctypes.byref(position),
                keys,
                leaves,
                ctypes.byref(count),
            )
            code = ctypes.get_errno()
            if failed and code == errno.ENOSPC:  # one hash bucket holds more than the whole buffer
                self._batch *= 2
                continue
            if failed and code != errno.ENOENT:
                raise OSError(code, os.strerror(code))
            for index in range(count.value):
                key = Row(self._key, self._key.unpack_from(keys, index * self._key.size))
                items.append((key, Row(self._leaf, self._leaf.unpack_from(leaves, index * self._leaf.size))))
            if failed:  # ENOENT: that was the last batch
                return items
            started = True

    def put(self, key: Iterable[Any], leaf: Iterable[Any]) -> None:
        """Write an entry, given the fields of its key and value.

        Raises:
            OSError: There is no room.
        """
        packed_key, packed_leaf = self._key.pack(*key), self._leaf.pack(*leaf)
        if self._lib.bpf_update_elem(
            self._table.map_fd,
            ctypes.create_string_buffer(packed_key, self._key.size),
            ctypes.create_string_buffer(packed_leaf, self._leaf.size),
            0,
        ):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def delete(self, keys: Iterable[Row]) -> None:
        """Remove entries; one that is gone already is no error."""
        for key in keys:
            self._lib.bpf_delete_elem(self._table.map_fd, ctypes.create_string_buffer(key.packed(), self._key.size))
