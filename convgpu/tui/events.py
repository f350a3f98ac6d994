# SPDX-License-Identifier: Apache-2.0
"""The events: decisions and what else happened, as sentences, the newest last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convgpu.core.events import LogEvent
from convgpu.tui.columns import Column

_CLOCK: Final = slice(11, 19)
"""HH:MM:SS of an RFC 3339 time."""
_STYLES: Final[Mapping[str, str]] = {
    "decision.denied": "red",
    "start.denied": "red",
    "decision.suspended": "yellow",
    "start.suspended": "yellow",
    "decision.resumed": "green",
    "start.admitted": "green",
    "finding.raised": "bold red",
    "finding.cleared": "green",
    "loss": "red",
    "config.rejected": "red",
}
"""How an event looks; what it means is said by its sentence."""

TIME = Column[LogEvent]("UTC", 8, lambda event: event.ts[_CLOCK], meaning="when, by the clock of the daemon's machine")
SENTENCE = Column[LogEvent](
    "EVENT", 8, lambda event: event.sentence, widest=400, meaning="what happened, as in the log"
)

SHOWN: Final = (TIME, SENTENCE)
IMPORTANCE: Final = (SENTENCE, TIME)


def style_of(event: LogEvent) -> str:
    """Return how an event looks."""
    return _STYLES.get(event.type, "")
