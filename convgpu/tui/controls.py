# SPDX-License-Identifier: Apache-2.0
"""What a key does: from the choices until now, and what is on the screen, to new choices. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from convgpu.core.units import parse_size
from convgpu.errors import UsageError
from convgpu.tui.containers import ContainerRow
from convgpu.tui.keys import BY_NAME, INTERVALS_S, Action
from convgpu.tui.order import next_order
from convgpu.tui.state import Ask, Page, Pane, Prompt, State

_CLOSED: Final = "ctrl-c"


@dataclass(frozen=True, slots=True)
class Shown:
    """What is on the screen.

    Attributes:
        rows: The containers that the filter lets through, in their order.
        cursor: The index of the one under the cursor.
        page_lines: How far Page Up and Page Down go.
        scroll_most: How far the page that is shown can be scrolled.
        queue: How many wait.
        events: How many events are known.
    """

    rows: Sequence[ContainerRow]
    cursor: int = 0
    page_lines: int = 10
    scroll_most: int = 0
    queue: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class SetLimit:
    """What is to be done because it was confirmed."""

    container_id: str
    name: str
    old_bytes: int | None
    new_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a key."""

    state: State
    quit: bool = False
    redraw: bool = False
    picture: bool = False
    set_limit: SetLimit | None = None


def press(state: State, key: str, shown: Shown) -> Step:
    """Return what comes of a key, as `keyboard.decode` names it."""
    if key == _CLOSED:
        return Step(state, quit=True)
    if state.prompt is not None and state.prompt.ask in _ANSWERS:
        return _ANSWERS[state.prompt.ask](state, state.prompt, key, shown)
    if state.prompt is not None and state.prompt.ask is not Ask.BUSY:
        state = replace(state, prompt=None)  # an answer was read: the key means what it always does
    known = BY_NAME.get(key)
    if known is None or (known.edit and not state.edit):
        return Step(state)
    if known.action is Action.QUIT:
        return Step(state, quit=True) if state.page is Page.MAIN else Step(_back(state))
    if known.action is Action.REDRAW:
        return Step(state, redraw=True)
    if known.action is Action.PICTURE:
        return Step(state, picture=True)
    return Step(_chosen(state, known.action, shown))


def _chosen(state: State, action: Action, shown: Shown) -> State:
    if action in _MOVES:
        return _moved(state, action, shown)
    if action in _PANES:
        return replace(state, hidden=state.hidden ^ {_PANES[action]}, focus=Pane.CONTAINERS)
    match action:
        case Action.HELP:
            if state.page is Page.HELP:
                return _back(state)
            return _scrolled(replace(state, page=Page.HELP, behind=state.page), Page.HELP, 0)
        case Action.DETAIL:
            return _looked_at(state, shown)
        case Action.BACK:
            return _back(state)
        case Action.PREVIOUS | Action.NEXT:
            return _stepped(state, -1 if action is Action.PREVIOUS else 1, shown)
        case Action.FOCUS:
            return replace(state, focus=_next_focus(state, shown))
        case Action.FILTER:
            prompt = Prompt(ask=Ask.FILTER, typed=state.filter, before=state.filter)
            return replace(state, page=Page.MAIN, prompt=prompt)
        case Action.SORT | Action.SORT_BACK:
            return replace(state, sort=next_order(state.sort, 1 if action is Action.SORT else -1), reverse=False)
        case Action.REVERSE:
            return replace(state, reverse=not state.reverse)
        case Action.TREE:
            return replace(state, tree=not state.tree)
        case Action.PAUSE:
            return replace(state, paused=not state.paused)
        case Action.FASTER | Action.SLOWER:
            return replace(state, interval_s=_other_interval(state.interval_s, faster=action is Action.FASTER))
        case Action.LIMIT:
            return _limit_asked(state, shown)
        case _:
            return state


_MOVES: Final[Mapping[Action, tuple[int, int]]] = {
    Action.UP: (-1, 0),
    Action.DOWN: (1, 0),
    Action.PAGE_UP: (0, -1),
    Action.PAGE_DOWN: (0, 1),
    Action.FIRST: (-(10**9), 0),
    Action.LAST: (10**9, 0),
}
"""Lines and pages."""

_PANES: Final[Mapping[Action, Pane]] = {
    Action.GPUS: Pane.GPUS,
    Action.QUEUE: Pane.QUEUE,
    Action.EVENTS: Pane.EVENTS,
    Action.GROUPS: Pane.GROUPS,
}


def _moved(state: State, action: Action, shown: Shown) -> State:
    lines, pages = _MOVES[action]
    lines += pages * max(1, shown.page_lines)
    if state.page is not Page.MAIN:
        now = min(state.scrolled.get(state.page, 0), shown.scroll_most)
        return _scrolled(state, state.page, max(0, min(now + lines, shown.scroll_most)))
    if state.focus not in _scrollable(state, shown)[1:]:
        return _stepped(state, lines, shown)
    most = shown.queue if state.focus is Pane.QUEUE else shown.events
    lines = -lines if state.focus is Pane.EVENTS else lines  # the newest are last: up is back in time
    now = min(state.scrolled.get(state.focus, 0), max(0, most - 1))
    return _scrolled(state, state.focus, max(0, min(now + lines, most - 1)))


def _scrolled(state: State, what: str, lines: int) -> State:
    return replace(state, scrolled={**state.scrolled, what: lines})


def _stepped(state: State, lines: int, shown: Shown) -> State:
    """Move the cursor; the close look goes along, and begins at its first line."""
    if not shown.rows:
        return state
    place = max(0, min(shown.cursor + lines, len(shown.rows) - 1))
    return _scrolled(replace(state, selected=shown.rows[place].key, place=place), Page.DETAIL, 0)


def _looked_at(state: State, shown: Shown) -> State:
    if state.page is not Page.MAIN or not shown.rows:
        return state
    looking = replace(state, page=Page.DETAIL, selected=shown.rows[shown.cursor].key, place=shown.cursor)
    return _scrolled(looking, Page.DETAIL, 0)


def _back(state: State) -> State:
    if state.page is not Page.MAIN:
        return replace(state, page=state.behind if state.page is Page.HELP else Page.MAIN)
    return replace(state, filter="", focus=Pane.CONTAINERS)


def _scrollable(state: State, shown: Shown) -> list[Pane]:
    """The panes that Up and Down can move, as they stand: the queue is there while somebody waits."""
    there = [Pane.CONTAINERS]
    there += [Pane.QUEUE] if shown.queue and Pane.QUEUE not in state.hidden else []
    there += [Pane.EVENTS] if shown.events and Pane.EVENTS not in state.hidden else []
    return there


def _next_focus(state: State, shown: Shown) -> Pane:
    there = _scrollable(state, shown)
    return there[(there.index(state.focus) + 1) % len(there)] if state.focus in there else Pane.CONTAINERS


def _other_interval(now_s: float, *, faster: bool) -> float:
    if faster:
        return max((each for each in INTERVALS_S if each < now_s), default=now_s)
    return min((each for each in INTERVALS_S if each > now_s), default=now_s)


def _limit_asked(state: State, shown: Shown) -> State:
    if not shown.rows or state.page is Page.HELP:
        return state
    row = shown.rows[shown.cursor]
    if state.page is Page.DETAIL and state.selected is not None and state.selected.container_id != row.key.container_id:
        return replace(state, prompt=Prompt(ask=Ask.FAILED, said="This container is not there any more."))
    if not row.container.guarded:
        said = f"{row.container.name} is not guarded by ConvGPU: it has no limit."
        return replace(state, prompt=Prompt(ask=Ask.FAILED, said=said))
    limits = [device.limit_bytes for device in row.container.devices if device.limit_bytes is not None]
    prompt = Prompt(
        ask=Ask.LIMIT,
        container_id=row.container.container_id,
        name=row.container.name,
        old_bytes=max(limits, default=None),
    )
    return replace(state, prompt=prompt, selected=row.key, place=shown.cursor)


def _typed(prompt: Prompt, key: str) -> Prompt:
    """Change what was typed: letters are added, Backspace takes the last away, Ctrl-U all."""
    if key == "backspace":
        return replace(prompt, typed=prompt.typed[:-1])
    if key == "ctrl-u":
        return replace(prompt, typed="")
    letter = " " if key == "space" else key
    return replace(prompt, typed=prompt.typed + letter) if len(letter) == 1 and letter.isprintable() else prompt


def _answer_filter(state: State, prompt: Prompt, key: str, _: Shown) -> Step:
    if key in ("enter", "esc"):
        return Step(replace(state, filter=state.filter if key == "enter" else prompt.before, prompt=None))
    prompt = _typed(prompt, key)
    return Step(replace(state, filter=prompt.typed.strip(), prompt=prompt))


def _answer_limit(state: State, prompt: Prompt, key: str, _: Shown) -> Step:
    if key == "esc":
        return Step(replace(state, prompt=None))
    if key != "enter":
        return Step(replace(state, prompt=replace(_typed(prompt, key), said="")))
    try:
        new_bytes = parse_size(prompt.typed)
    except UsageError as error:
        return Step(replace(state, prompt=replace(prompt, said=error.message)))
    return Step(replace(state, prompt=replace(prompt, ask=Ask.CONFIRM, new_bytes=new_bytes)))


def _answer_confirm(state: State, prompt: Prompt, key: str, _: Shown) -> Step:
    if key not in ("y", "Y"):
        return Step(replace(state, prompt=Prompt(ask=Ask.DONE, said=f"The limit of {prompt.name} is as it was.")))
    wanted = SetLimit(prompt.container_id, prompt.name, prompt.old_bytes, prompt.new_bytes)
    busy = Prompt(ask=Ask.BUSY, said=f"Setting the limit of {prompt.name} ...", container_id=prompt.container_id)
    return Step(replace(state, prompt=busy), set_limit=wanted)


_ANSWERS: Final[Mapping[Ask, Callable[[State, Prompt, str, Shown], Step]]] = {
    Ask.FILTER: _answer_filter,
    Ask.LIMIT: _answer_limit,
    Ask.CONFIRM: _answer_confirm,
}
