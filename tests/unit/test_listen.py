# SPDX-License-Identifier: Apache-2.0
"""Addresses to listen at."""

from __future__ import annotations

import pytest

from convgpu.core.listen import Address, parse_address
from convgpu.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:9400", Address("127.0.0.1", 9400), True),
        ("127.9.9.9:1", Address("127.9.9.9", 1), True),
        ("localhost:9400", Address("127.0.0.1", 9400), True),
        ("[::1]:65535", Address("::1", 65535), True),
        ("0.0.0.0:9400", Address("0.0.0.0", 9400), False),
        ("[::]:9400", Address("::", 9400), False),
        ("192.168.1.5:80", Address("192.168.1.5", 80), False),
    ],
)
def test_an_address_is_read_and_written_again(text, address, loopback):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address
    assert address.loopback is loopback


@pytest.mark.parametrize(
    "text", ["", "9400", ":9400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:9400",
             "gpu-host:9400", "127.0.0.1:94o0", "1.2.3:80", "http://127.0.0.1:9400"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_may_be_written(text):
    with pytest.raises(UsageError, match="write"):
        parse_address(text)
