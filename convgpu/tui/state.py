# SPDX-License-Identifier: Apache-2.0
"""What the person in front of the screen has chosen: values that keys change and the view reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

CREATED: Final = "created"
"""The order of the snapshot."""


class RowKey(NamedTuple):
    """A row of the table of containers, whatever its place; `uuid` is None while the container uses no device."""

    container_id: str
    uuid: str | None


class Page(StrEnum):
    """What fills the screen."""

    MAIN = "main"
    DETAIL = "detail"
    HELP = "help"


class Pane(StrEnum):
    """The parts of the main page that can be hidden, scrolled or both."""

    GPUS = "gpus"
    CONTAINERS = "containers"
    QUEUE = "queue"
    EVENTS = "events"
    GROUPS = "groups"


class Ask(StrEnum):
    """What the last line is for, when it is not for the keys."""

    FILTER = "filter"
    LIMIT = "limit"
    CONFIRM = "confirm"
    BUSY = "busy"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question in the last line, or an answer there.

    Attributes:
        typed: What was typed so far.
        said: What is said beside it: an error, or an answer.
        before: The filter until now, for whoever gives up.
        container_id: Whose limit is to change.
        name: The same for people.
        old_bytes: Its limit; None: it has none.
        new_bytes: What it is to be.
    """

    ask: Ask
    typed: str = ""
    said: str = ""
    before: str = ""
    container_id: str = ""
    name: str = ""
    old_bytes: int | None = None
    new_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All choices.

    Attributes:
        behind: The page to which one goes back from the help.
        sort: Name of the order, one of `order.ORDERS`.
        reverse: The other way round.
        filter: Words that a container must have.
        tree: Processes are shown below containers.
        hidden: Panes that are not shown.
        focus: The pane that Up and Down move.
        selected: The row under the cursor; None: nobody moved it yet, it is on the first.
        place: Its index when it was last seen, for when it is gone.
        scrolled: Lines that a pane or page is scrolled: down from the start, or, of the events, up from the end.
        interval_s: Between two refreshes.
        edit: Whether limits may be changed.
        prompt: What the last line asks or says; None: it shows keys.
    """

    page: Page = Page.MAIN
    behind: Page = Page.MAIN
    sort: str = CREATED
    reverse: bool = False
    filter: str = ""
    tree: bool = False
    paused: bool = False
    hidden: frozenset[Pane] = frozenset()
    focus: Pane = Pane.CONTAINERS
    selected: RowKey | None = None
    place: int = 0
    scrolled: Mapping[str, int] = field(default_factory=dict)
    interval_s: float = 1.0
    edit: bool = False
    prompt: Prompt | None = None
