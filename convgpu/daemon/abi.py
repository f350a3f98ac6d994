# SPDX-License-Identifier: Apache-2.0
"""The layout that wrapper and daemon share, read from the one C header that defines it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import cffi

from convgpu.errors import ProtocolError
from convgpu.native import native_dir

_DEFINE: Final = re.compile(r'^#define\s+(CVG_\w+)\s+(?:(0x[0-9a-fA-F]+|\d+)|"([^"]*)")', re.MULTILINE)
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_STATIC_ASSERT: Final = re.compile(r"^_Static_assert\(.*?\);$", re.MULTILINE | re.DOTALL)
_DIRECTIVE: Final = re.compile(r"^\s*#.*$", re.MULTILINE)
_CODES: Final = {"uint32_t": "I", "int32_t": "i", "uint64_t": "Q"}
_EXTERN_C: Final = re.compile(r"__attribute__\(\(.*?\)\)")


def declarations(header: str) -> str:
    """Return a header's declarations in the form that cffi parses: integer defines kept, the rest of cpp dropped."""
    text = _COMMENT.sub("", header)
    defines = [f"#define {name} {number}" for name, number, _ in _DEFINE.findall(text) if number]
    body = _EXTERN_C.sub("", _STATIC_ASSERT.sub("", _DIRECTIVE.sub("", text)))
    return "\n".join(defines) + "\n" + body


@dataclass(frozen=True, slots=True)
class Abi:
    """The parsed header.

    Attributes:
        ffi: cffi with the structures, enumerations and functions declared.
        lib: The page library, opened: functions and integer constants by name.
        texts: The string constants, by name.
        message: `struct cvg_message` as Python's struct module packs it: many times faster than field by field.
        message_fields: Its fields, in their order.
    """

    ffi: Any
    lib: Any
    texts: dict[str, str]
    message: struct.Struct
    message_fields: tuple[str, ...]

    def constant(self, name: str) -> int:
        """Return an integer constant or enumerator."""
        value: int = getattr(self.lib, name)
        return value


@cache
def load_abi() -> Abi:
    """Read the installed headers and open the page library.

    Raises:
        EnvironmentMissingError: The package was never built.
    """
    folder = native_dir()
    layout = (folder / "include" / "convgpu_abi.h").read_text()
    operations = (folder / "include" / "convgpu_page.h").read_text()
    ffi = cffi.FFI()
    ffi.cdef(declarations(layout))
    ffi.cdef(declarations(operations))
    library: Any = ffi.dlopen(str(folder / "libconvgpu-page.so"))
    texts = {name: text for name, number, text in _DEFINE.findall(_COMMENT.sub("", layout)) if not number}
    fields = ffi.typeof("struct cvg_message").fields
    message = struct.Struct("<" + "".join(_CODES[field.type.cname] for _, field in fields))
    if message.size != library.CVG_MESSAGE_BYTES or message.size != ffi.sizeof("struct cvg_message"):
        raise ProtocolError("struct cvg_message has gaps: it cannot be read field after field")
    return Abi(ffi=ffi, lib=library, texts=texts, message=message, message_fields=tuple(name for name, _ in fields))


class Message(NamedTuple):
    """One message of the client socket; the fields, their order and their meaning are those of `struct cvg_message`."""

    type: int
    abi_version: int = 0
    request: int = 0
    size_bytes: int = 0
    since_ns: int = 0
    device: int = 0
    flags: int = 0
    reason: int = 0
    api: int = 0
    total_bytes: int = 0
    free_bytes: int = 0

    def pack(self) -> bytes:
        """Return the bytes that go over the socket; the version is filled in."""
        return load_codec().pack(self)

    @classmethod
    def unpack(cls, data: bytes) -> Message:
        """Read a message.

        Raises:
            struct.error: Not exactly one message long.
        """
        return load_codec().unpack(data)


@cache
def load_codec() -> Codec:
    """Return what turns messages into bytes and back.

    Raises:
        EnvironmentMissingError: The package was never built.
        ProtocolError: The installed header is another than this file was written for.
    """
    return Codec(load_abi())


class Codec:
    """Packs and unpacks messages. One object that connections keep: it is used for every request."""

    def __init__(self, abi: Abi) -> None:
        if abi.message_fields != Message._fields:
            raise ProtocolError(
                f"struct cvg_message has the fields {', '.join(abi.message_fields)}; this daemon knows "
                f"{', '.join(Message._fields)}",
                next_step="install the daemon and the wrapper of one version",
            )
        self._struct = abi.message
        self._version = abi.constant("CVG_ABI_VERSION")
        self.size_bytes = abi.message.size

    def pack(self, message: Message) -> bytes:
        """Return the bytes that go over the socket; the version is filled in."""
        return self._struct.pack(message[0], self._version, *message[2:])

    def unpack(self, data: bytes) -> Message:
        """Read a message.

        Raises:
            struct.error: Not exactly one message long.
        """
        return Message._make(self._struct.unpack(data))
