# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convgpu.core.units import GIB, GRANULE_BYTES, KIB, MIB, TIB, format_size, parse_size
from convgpu.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4GiB", 4 * GIB),
        ("4G", 4 * GIB),
        ("4gb", 4 * GIB),
        ("4096MiB", 4 * GIB),
        ("4096M", 4 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5k", 512),
        ("2T", 2 * TIB),
        ("17", 17),
        ("17B", 17),
        (" 1 KiB ", KIB),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_accepted_forms(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "G", "4Gi B", "4 GiB/s", "-1G", "+1G", "1e9", "4GiBB", "٤G", "4,5G", "0", "0G", "1.3k", "8388608T", "nan"],
)
def test_anything_else_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(UsageError, match="4GiB, 4G, 4096MiB") as refused:
        parse_size(text)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "N/A"),
        (0, "0B"),
        (1023, "1023B"),
        (KIB, "1KiB"),
        (GRANULE_BYTES, "2MiB"),
        (3 * GIB // 2, "1.50GiB"),
        (10 * GIB, "10GiB"),
        (-MIB, "-1MiB"),
    ],
)
def test_written_for_people(size_bytes: int | None, text: str) -> None:
    assert format_size(size_bytes) == text


@settings(database=None)
@given(st.integers(1, 2**40), st.sampled_from([("", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB)]))
def test_exact_sizes_survive_being_written_and_read(count: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    if count * factor < 2**63:
        assert parse_size(f"{count}{name}") == count * factor
    if count * factor < KIB:
        assert parse_size(format_size(count * factor)) == count * factor
