# SPDX-License-Identifier: Apache-2.0
"""Figures in the width of a column: at most seven characters, and `N/A` for what is not known."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "N/A"
SIZE_WIDTH: Final = 7

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_THREE_DIGITS: Final = 999.5
"""From here on a figure with no decimals would round to four digits."""


def size(size_bytes: int | None) -> str:
    """Write bytes with three digits, as `4.00GiB`, `10.5GiB`, `512MiB`, `0B`; exact figures are for `convgpu ps`."""
    if size_bytes is None:
        return UNKNOWN
    if size_bytes < 0:
        return "-" + size(-size_bytes)[: SIZE_WIDTH - 1]
    amount = float(size_bytes)
    for unit in _UNITS:
        if amount < 1000 and (unit == "B" or amount < _THREE_DIGITS):
            break
        if unit != _UNITS[-1]:
            amount /= 1024
    if unit == "B":
        return f"{size_bytes}B"
    decimals = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{amount:.{decimals}f}{unit}"


def exact(size_bytes: int | None) -> str:
    """Write bytes in the largest unit that divides them, as `4GiB`, `3500MiB`: what is confirmed is not rounded."""
    if size_bytes is None:
        return UNKNOWN
    for power in range(len(_UNITS) - 1, 0, -1):
        if size_bytes and size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{_UNITS[power]}"
    return f"{size_bytes}B"


def percent(part: int | None, whole: int | None) -> str:
    """Write a share, rounded down so that 100% means all of it; `>999%` where a lowered limit makes it absurd."""
    if part is None or not whole:
        return UNKNOWN
    share = part * 100 // whole
    return f"{share}%" if share <= 999 else ">999%"


def duration(duration_ms: int) -> str:
    """Write a duration in two units at most: `0s`, `340ms`, `12.3s`, `5m07s`, `3h20m`, `2d04h`."""
    if not duration_ms:
        return "0s"
    seconds = duration_ms // 1000
    if duration_ms < 1000:
        return f"{duration_ms}ms"
    if seconds < 60:
        return f"{duration_ms // 100 / 10:.1f}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    return f"{seconds // 86400}d{seconds // 3600 % 24:02}h"


def optional(number: int | None, unit: str = "") -> str:
    """Write a whole number with its unit, or `N/A`."""
    return UNKNOWN if number is None else f"{number}{unit}"
