# SPDX-License-Identifier: Apache-2.0
"""The keys of the monitor: one table for the program, its help, its last line and docs/reference/monitor.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What a key does."""

    UP = "up"
    DOWN = "down"
    PAGE_UP = "page_up"
    PAGE_DOWN = "page_down"
    FIRST = "first"
    LAST = "last"
    PREVIOUS = "previous"
    NEXT = "next"
    FOCUS = "focus"
    DETAIL = "detail"
    BACK = "back"
    HELP = "help"
    FILTER = "filter"
    SORT = "sort"
    SORT_BACK = "sort_back"
    REVERSE = "reverse"
    TREE = "tree"
    GPUS = "gpus"
    QUEUE = "queue"
    EVENTS = "events"
    GROUPS = "groups"
    PAUSE = "pause"
    FASTER = "faster"
    SLOWER = "slower"
    LIMIT = "limit"
    REDRAW = "redraw"
    PICTURE = "picture"
    QUIT = "quit"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the table.

    Attributes:
        group: The heading under which it stands.
        names: The keys, as `keyboard.decode` calls them.
        meaning: What they do, in a sentence without a subject.
        hint: The same in a word, for the last line; empty: it is not there.
        edit: Works with `--edit` only.
    """

    action: Action
    group: str
    names: tuple[str, ...]
    meaning: str
    hint: str = ""
    edit: bool = False


KEYS: Final = (
    Key(Action.QUIT, "Leave", ("q",), "goes back; from the main screen, leaves", "quit"),
    Key(Action.SUSPEND, "Leave", ("ctrl-z",), "gives the terminal back to the shell; `fg` comes back"),
    Key(Action.HELP, "Look", ("?", "h", "f1"), "shows this help", "help"),
    Key(Action.DETAIL, "Look", ("enter",), "looks closely at the container under the cursor", "detail"),
    Key(Action.BACK, "Look", ("esc", "backspace"), "goes back; from the main screen, takes the filter away"),
    Key(Action.PREVIOUS, "Look", ("left",), "goes to the container before, also in the close look"),
    Key(Action.NEXT, "Look", ("right",), "goes to the next container, also in the close look"),
    Key(Action.PICTURE, "Look", ("p",), "draws what is on the screen into an SVG file in the current folder"),
    Key(Action.UP, "Move", ("up", "k"), "moves up: the cursor, or the pane in focus"),
    Key(Action.DOWN, "Move", ("down", "j"), "moves down"),
    Key(Action.PAGE_UP, "Move", ("pgup", "ctrl-b"), "moves half a screen up"),
    Key(Action.PAGE_DOWN, "Move", ("pgdn", "ctrl-f"), "moves half a screen down"),
    Key(Action.FIRST, "Move", ("home", "g"), "moves to the first line"),
    Key(Action.LAST, "Move", ("end", "G"), "moves to the last line"),
    Key(Action.FOCUS, "Move", ("tab",), "takes the focus to the next pane: containers, queue, events"),
    Key(
        Action.FILTER, "Choose", ("/",), "shows only containers with all these words in what is said of them", "filter"
    ),
    Key(Action.SORT, "Choose", ("s",), "sorts by the next column", "sort"),
    Key(Action.SORT_BACK, "Choose", ("S",), "sorts by the column before"),
    Key(Action.REVERSE, "Choose", ("r",), "turns the order around", "reverse"),
    Key(Action.TREE, "Choose", ("t",), "shows the processes below their containers", "tree"),
    Key(Action.GPUS, "Panes", ("1",), "shows or hides the GPUs"),
    Key(Action.QUEUE, "Panes", ("2",), "shows or hides the queue"),
    Key(Action.EVENTS, "Panes", ("3",), "shows or hides the events"),
    Key(Action.GROUPS, "Panes", ("4",), "shows or hides the groups, where there are any"),
    Key(Action.PAUSE, "Time", ("space",), "holds the figures as they are, or lets them go on", "pause"),
    Key(Action.FASTER, "Time", ("+", "="), "refreshes more often"),
    Key(Action.SLOWER, "Time", ("-",), "refreshes less often"),
    Key(Action.REDRAW, "Time", ("ctrl-l",), "draws the screen anew, with fresh figures"),
    Key(Action.LIMIT, "Change", ("l",), "sets the limit of the container under the cursor", "limit", edit=True),
)
"""In the order in which they are explained."""

BY_NAME: Final[Mapping[str, Key]] = {name: key for key in KEYS for name in key.names}

INTERVALS_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""The steps of `+` and `-`."""

_WRITTEN: Final[Mapping[str, str]] = {
    "up": "Up", "down": "Down", "left": "Left", "right": "Right", "pgup": "PgUp", "pgdn": "PgDn", "home": "Home",
    "end": "End", "tab": "Tab", "enter": "Enter", "esc": "Esc", "backspace": "Backspace", "space": "Space", "f1": "F1",
}  # fmt: skip


def written(name: str) -> str:
    """Return a key as it is written on a keyboard: `Ctrl-Z` for `ctrl-z`."""
    if name.startswith("ctrl-"):
        return f"Ctrl-{name[5:].upper()}"
    return _WRITTEN.get(name, name)


def written_all(key: Key) -> str:
    """Return all keys of a line, such as `Up k`."""
    return " ".join(written(name) for name in key.names)
