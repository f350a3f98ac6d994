# SPDX-License-Identifier: Apache-2.0
"""Times and types of events as a person writes them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from convgpu.cli.options import ParsedType
from convgpu.config.forms import nearest
from convgpu.core.durations import parse_duration
from convgpu.core.events import TOPICS
from convgpu.errors import UsageError


def read_type(text: str) -> str:
    """Read a topic or a record type of the log.

    Raises:
        UsageError: There is no such type.
    """
    if text in TOPICS:
        return text
    from convgpu.audit.records import RECORD_TYPES  # only where somebody names one

    if text in RECORD_TYPES:
        return text
    like = nearest(text, (*TOPICS, *RECORD_TYPES))
    hint = f"did you mean '{like}'?" if like else f"write one of {', '.join(TOPICS)}, or a record type"
    raise UsageError(f"'{text}' is no type of event: {hint}")


def read_moment(text: str) -> float:
    """Read a time as seconds since the epoch: how long ago, or when.

    Raises:
        UsageError: It is neither.
    """
    try:
        ago_ns = parse_duration(text)
    except UsageError:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"'{text}' is neither how long ago (10m, 1h30m) nor a time (2026-11-28T09:00:00Z)"
            ) from None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return 0.0 if ago_ns is None else time.time() - ago_ns / 1e9


def stamp(moment_s: float) -> str:
    """Return a time so that it compares as text with the log's own time stamps: UTC, to the microsecond."""
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="microseconds")[:26]


MOMENT: Final = ParsedType("time", read_moment)
EVENT_TYPE: Final = ParsedType("type", read_type, lambda: TOPICS)
