# SPDX-License-Identifier: Apache-2.0
"""Durations: from what a person types to nanoseconds, and back."""

from __future__ import annotations

import re
from typing import Final

from convgpu.errors import UsageError

ACCEPTED_FORMS: Final = "30s, 5m, 1h, 1h30m, 500ms, plain seconds, or `none` for no end"
NO_END: Final = "none"

_UNITS_NS: Final = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "ns": 1}
_PART: Final = re.compile(r"(\d+)(?:\.(\d+))?(ms|ns|h|m|s)", re.ASCII)
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_PLAIN_SECONDS: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_LARGEST_NS: Final = 2**63 - 1


def parse_duration(text: str) -> int | None:
    """Read a duration such as `30s`, `5m`, `1h30m`, `500ms`, `90` (seconds) or `none`.

    Returns:
        Nanoseconds, or None for `none`: no end.

    Raises:
        UsageError: Anything else; the message names the accepted forms.
    """
    plain = text.strip().lower()
    if plain == NO_END:
        return None
    if _PLAIN_SECONDS.fullmatch(plain):
        plain += "s"
    if not _WHOLE.fullmatch(plain):
        raise UsageError(f"'{text}' is not a duration: write {ACCEPTED_FORMS}")
    duration_ns = sum(_part_ns(*part.groups(default="")) for part in _PART.finditer(plain))
    if duration_ns > _LARGEST_NS:
        raise UsageError(f"'{text}' is out of range: a duration is at most 292 years; write {ACCEPTED_FORMS}")
    return duration_ns


def _part_ns(whole: str, fraction: str, unit: str) -> int:
    factor = _UNITS_NS[unit]
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def format_duration(duration_ns: int | None) -> str:
    """Write a duration so that `parse_duration` reads the same value: the largest unit that divides it."""
    if duration_ns is None:
        return NO_END
    for unit in ("h", "m", "s", "ms"):
        if duration_ns and duration_ns % _UNITS_NS[unit] == 0:
            return f"{duration_ns // _UNITS_NS[unit]}{unit}"
    return f"{duration_ns}ns" if duration_ns else "0s"
