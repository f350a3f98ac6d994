# SPDX-License-Identifier: Apache-2.0
"""Sizes: from what a person types to bytes, and from bytes to what a person reads."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from convgpu.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

GRANULE_BYTES: Final = 2 * MIB
"""Granule of a physical device allocation, measured on an H200 (docs/results); CVG_GRANULE_BYTES in the ABI header."""

ACCEPTED_FORMS: Final = "4GiB, 4G, 4096MiB, 4096M, or plain bytes (G = GiB = 1024^3 bytes)"

_FACTORS: Final = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE: Final = re.compile(r"(\d+)(?:\.(\d+))?\s*(?:([kmgt])(?:i?b)?|(b))?", re.IGNORECASE | re.ASCII)
_LARGEST_BYTES: Final = 2**63 - 1


def parse_size(text: str) -> int:
    """Read a size such as `4GiB`, `4G`, `4096MiB`, `1.5GiB` or `4294967296`.

    A unit letter means the power of 1024, as `docker run --memory` does; a fraction must come to whole bytes.

    Returns:
        The size in bytes, greater than zero.

    Raises:
        UsageError: Anything else; the message names the accepted forms.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a size: write {ACCEPTED_FORMS}")
    whole, fraction, letter, _ = match.groups()
    factor = _FACTORS[(letter or "").lower()]
    size_bytes = int(whole) * factor
    if fraction is not None:
        scaled = int(fraction) * factor
        divisor = 10 ** len(fraction)
        if scaled % divisor:
            raise UsageError(f"'{text}' is not a whole number of bytes: write {ACCEPTED_FORMS}")
        size_bytes += scaled // divisor
    if not 0 < size_bytes <= _LARGEST_BYTES:
        raise UsageError(f"'{text}' is out of range: a size is at least 1 byte and below 8 EiB; write {ACCEPTED_FORMS}")
    return size_bytes


@lru_cache(maxsize=4096)
def format_size(size_bytes: int | None) -> str:
    """Write bytes for a person: exact where a unit divides it, else two decimals; `N/A` where it is not known."""
    if size_bytes is None:
        return "N/A"
    if size_bytes < 0:
        return "-" + format_size(-size_bytes)
    for factor, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes >= factor:
            if size_bytes % factor == 0:
                return f"{size_bytes // factor}{name}"
            return f"{size_bytes / factor:.2f}{name}"
    return f"{size_bytes}B"
