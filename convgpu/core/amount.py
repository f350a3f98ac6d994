# SPDX-License-Identifier: Apache-2.0
"""Amounts of memory that may be given as a share: `4GiB`, or `25%` of a device."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from convgpu.core.units import ACCEPTED_FORMS as SIZE_FORMS
from convgpu.core.units import GIB, GRANULE_BYTES, KIB, MIB, TIB, parse_size
from convgpu.errors import UsageError

ACCEPTED_FORMS: Final = f"{SIZE_FORMS}; or a share such as 25% or 12.5%"

_SHARE: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,4}))?\s*%", re.ASCII)
_WHOLE_PPM: Final = 1_000_000
_PERCENT_PPM: Final = 10_000
_UNITS: Final = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))


@dataclass(frozen=True, slots=True)
class Amount:
    """A size, or a share of a whole that is known later.

    Attributes:
        size_bytes: The size; it holds where no share is given.
        share_ppm: The share in millionths; 0: none is given.
    """

    size_bytes: int = 0
    share_ppm: int = 0

    def of(self, whole_bytes: int) -> int:
        """Return the bytes that this is of a whole; a share comes to whole granules of the device, rounded down."""
        if not self.share_ppm:
            return self.size_bytes
        share_bytes = whole_bytes * self.share_ppm // _WHOLE_PPM
        return share_bytes if self.share_ppm == _WHOLE_PPM else share_bytes // GRANULE_BYTES * GRANULE_BYTES

    def __str__(self) -> str:
        if self.share_ppm:
            whole, rest = divmod(self.share_ppm, _PERCENT_PPM)
            return f"{whole}.{rest:04}".rstrip("0").rstrip(".") + "%"
        return exact_size(self.size_bytes)


def parse_amount(text: str) -> Amount:
    """Read an amount: `0`, a size as `parse_size` takes it, or a share from 0% to 100% with up to four decimals.

    Raises:
        UsageError: Anything else; the message names the accepted forms.
    """
    plain = text.strip()
    if plain == "0":
        return Amount()
    match = _SHARE.fullmatch(plain)
    if match is not None:
        whole, decimals = match.groups(default="")
        share_ppm = int(whole) * _PERCENT_PPM + int(decimals.ljust(4, "0"))
        if share_ppm <= _WHOLE_PPM:
            return Amount(share_ppm=share_ppm)
        raise UsageError(f"'{text}' is more than all of it: a share is at most 100%")
    try:
        return Amount(parse_size(plain))
    except UsageError as error:
        raise UsageError(f"{error.message.partition(': write')[0]}: write {ACCEPTED_FORMS}") from error


def exact_size(size_bytes: int) -> str:
    """Write bytes so that `parse_size` reads the same: in the largest unit that divides them, else as they are."""
    for factor, name in _UNITS:
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{name}"
    return str(size_bytes)
