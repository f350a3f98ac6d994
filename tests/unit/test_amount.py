# SPDX-License-Identifier: Apache-2.0
"""Amounts: a size, or a share of something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.core.amount import Amount, exact_size, parse_amount
from convgpu.core.units import GIB, GRANULE_BYTES, MIB, parse_size
from convgpu.errors import UsageError


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GiB", Amount(4 * GIB)),
        ("0", Amount()),
        ("0%", Amount()),
        ("25%", Amount(share_ppm=250_000)),
        (" 12.5 % ", Amount(share_ppm=125_000)),
        ("0.0001%", Amount(share_ppm=1)),
        ("100%", Amount(share_ppm=1_000_000)),
    ],
)
def test_what_a_person_writes(text: str, amount: Amount) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize("text", ["", "%", "-1%", "101%", "100.0001%", "1.23456%", "half", "4 GB!", "1e3", ".5%", "٣%"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_amount(text)
    assert repr(text) in caught.value.message


def test_the_refusal_names_both_forms() -> None:
    with pytest.raises(UsageError, match=r"write 4GiB, .*; or a share such as 25%"):
        parse_amount("quarter")


def test_a_share_comes_to_whole_granules_and_all_of_it_to_all() -> None:
    whole = 10 * GIB + 3 * MIB + 5
    assert Amount(share_ppm=250_000).of(whole) == 2560 * MIB
    assert Amount(share_ppm=333_333).of(whole) % GRANULE_BYTES == 0
    assert Amount(share_ppm=1_000_000).of(whole) == whole
    assert Amount(7).of(whole) == 7


@given(st.one_of(st.builds(Amount, st.integers(0, 2**62)), st.builds(Amount, st.just(0), st.integers(0, 1_000_000))))
def test_what_is_written_is_read_again(amount: Amount) -> None:
    assert parse_amount(str(amount)) == amount


@given(st.integers(1, 2**62), st.sampled_from([1, 1024, MIB, GIB]))
def test_a_size_is_written_exactly(number: int, unit: int) -> None:
    size_bytes = min(number * unit, 2**62)
    assert parse_size(exact_size(size_bytes)) == size_bytes
