# SPDX-License-Identifier: Apache-2.0
"""Python reads the one header that wrapper and daemon share."""

from __future__ import annotations

import struct

import pytest

from convgpu.daemon.abi import Message, declarations, load_abi


def test_a_message_comes_back_as_it_was_sent_with_this_version() -> None:
    abi = load_abi()
    sent = Message(
        type=4, request=2**63, size_bytes=2**40 + 1, since_ns=7, device=3, flags=5, reason=2, api=9,
        total_bytes=2**50, free_bytes=2**49,
    )  # fmt: skip
    data = sent.pack()
    # The C structure is the judge of where each field lies.
    raw = abi.ffi.from_buffer("struct cvg_message *", data)
    for name in abi.message_fields:
        expected = abi.lib.CVG_ABI_VERSION if name == "abi_version" else getattr(sent, name)
        assert getattr(raw, name) == expected, name
    received = Message.unpack(data)
    assert (received.size_bytes, received.free_bytes, received.api) == (2**40 + 1, 2**49, 9)
    assert received.abi_version == abi.lib.CVG_ABI_VERSION


@pytest.mark.parametrize("length", [0, 63, 65])
def test_anything_but_one_whole_message_is_an_error(length: int) -> None:
    with pytest.raises(struct.error):
        Message.unpack(bytes(length))


def test_the_socket_s_name_is_a_text_of_the_header() -> None:
    assert load_abi().texts["CVG_CLIENT_SOCKET"] == "/run/convgpu/client.sock"


def test_what_cffi_cannot_read_is_left_out() -> None:
    header = """
    #ifndef X
    #define X
    #include <stdint.h>
    #define CVG_NUMBER 0x10 /* a number */
    #define CVG_TEXT "text"
    struct cvg_a { uint32_t b; /* #define CVG_NOT 1 */ };
    _Static_assert(sizeof(struct cvg_a) == 4, "size");
    #endif
    """
    text = declarations("\n".join(line.strip() for line in header.splitlines()))
    assert "#define CVG_NUMBER 0x10" in text
    assert "struct cvg_a" in text
    for absent in ("CVG_TEXT", "CVG_NOT", "_Static_assert", "include", "ifndef"):
        assert absent not in text
