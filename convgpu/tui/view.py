# SPDX-License-Identifier: Apache-2.0
"""From a snapshot to a screenful: a pure function of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.text import Text

from convgpu.core.detail import ContainerDetail
from convgpu.core.events import LogEvent
from convgpu.core.status import Snapshot
from convgpu.tui import containers, events, gpus, groups, order, queue
from convgpu.tui.columns import CURSOR_STYLE
from convgpu.tui.containers import ContainerRow, container_rows, with_processes
from convgpu.tui.detail import detail_lines
from convgpu.tui.footer import footer_lines
from convgpu.tui.glyphs import BLOCKS, Glyphs
from convgpu.tui.header import title_line, undecided_lines, witness_line
from convgpu.tui.help import help_lines
from convgpu.tui.history import History
from convgpu.tui.panes import TablePane, said, stack
from convgpu.tui.state import Page, Pane, State

_ROOMY_LINES: Final = 16
"""From this height on the parts stand apart by an empty line."""
_EVENTS_LINES: Final = 20
"""From this height on there is room for events beside everything else."""
_EVENTS_LEAST: Final = 3
"""Events take so many lines from the others, half the screen in focus, and otherwise what is left over."""
_AROUND: Final = 5
"""Lines that no pane has: the first two, the last, and around the events."""
_NO_CONTAINERS: Final = "No containers. Start one: convgpu run --limit 4GiB -- ..."
_NO_MATCH: Final = "No container has all these words."
_OPTIONAL: Final = ("events", "groups")
"""Which parts give way to containers, in this order; one in focus does not."""
_EXPENDABLE: Final = ("GPUs", "requests")
"""Which parts a screen that is too low for all does without, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is shown beside the snapshot.

    Attributes:
        state: What the person has chosen.
        history: What was held a while ago.
        events: What happened, oldest first.
        detail: What the daemon said of the container that is looked at closely.
        notice: Something that must be seen, such as a daemon that no longer answers.
        live: Whether keys work: there are a cursor and a last line.
    """

    state: State = field(default_factory=State)
    history: History = field(default_factory=History)
    events: Sequence[LogEvent] = ()
    detail: ContainerDetail | None = None
    notice: str | None = None
    live: bool = False


def view(
    snapshot: Snapshot,
    width: int,
    height: int | None = None,
    *,
    glyphs: Glyphs = BLOCKS,
    scene: Scene | None = None,
) -> Text:
    """Return the monitor's screen.

    Args:
        snapshot: What the daemon said.
        width: Columns; no line is longer.
        height: Lines; None: as many as it takes.
        glyphs: The characters that the output can take.
        scene: What is shown beside it; None: nothing.
    """
    scene = scene or Scene()
    rows = order.arrange(container_rows(snapshot, scene.history), scene.state)
    last = _last_lines(snapshot, rows, scene, width, glyphs) if scene.live else []
    lines = [title_line(snapshot, width, glyphs)]
    if scene.notice is not None:
        lines.append(said(scene.notice, width, glyphs, "bold red"))
    room = None if height is None else max(0, height - len(lines) - len(last))
    lines += _page(snapshot, rows, scene, width, room, height, glyphs)
    if height is not None:
        last = last[-height:] if height > 0 else []
        lines = lines[: height - len(last)]
        lines += [Text()] * (height - len(lines) - len(last)) if last else []
    lines += last
    for line in lines:
        if not any(span.style == CURSOR_STYLE for span in line.spans):  # the cursor reaches from edge to edge
            line.rstrip()
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)


def cursor_of(rows: Sequence[ContainerRow], state: State) -> int:
    """Return the index of the row under the cursor; if it is gone, that of the one which took its place."""
    if state.selected is not None:
        for number, row in enumerate(rows):
            if row.key == state.selected:
                return number
    return max(0, min(state.place, len(rows) - 1))


def selected_container(rows: Sequence[ContainerRow], state: State) -> str | None:
    """Return the id of the container under the cursor, or the one that is looked at though it is gone."""
    if state.page is Page.DETAIL and state.selected is not None:
        return state.selected.container_id
    return rows[cursor_of(rows, state)].key.container_id if rows else None


def _page(
    snapshot: Snapshot,
    rows: Sequence[ContainerRow],
    scene: Scene,
    width: int,
    room: int | None,
    height: int | None,
    glyphs: Glyphs,
) -> list[Text]:
    state = scene.state
    if state.page is Page.HELP:
        return _part([Text(), *help_lines(width, glyphs, edit=state.edit)], state, room, width, glyphs)
    if state.page is Page.DETAIL:
        looked_at = selected_container(rows, state)
        if looked_at is not None:
            whole = detail_lines(looked_at, snapshot, scene.detail, scene.history, width, glyphs)
            return _part([Text(), *whole], state, room, width, glyphs)
    lines = [witness_line(snapshot, width, glyphs)]
    roomy = height is None or height >= _ROOMY_LINES
    if roomy:
        lines += undecided_lines(snapshot, width, glyphs)
    panes = _panes(snapshot, rows, scene, height, glyphs)
    left = None if room is None else max(0, room - len(lines))
    kept = ("events",) if state.focus is Pane.EVENTS else ()
    return lines + stack(
        panes,
        width,
        left,
        glyphs,
        apart=roomy,
        main="lines" if state.tree else "containers",
        optional=[noun for noun in _OPTIONAL if noun not in kept],
        expendable=_EXPENDABLE,
    )


def _part(lines: list[Text], state: State, room: int | None, width: int, glyphs: Glyphs) -> list[Text]:
    """Return what is seen of a page that may be longer than the screen."""
    if room is None or len(lines) <= room:
        return lines
    first = min(state.scrolled.get(state.page, 0), len(lines) - room)
    part = lines[first : first + room]
    below = len(lines) - first - room
    if below and room > 1:
        part[-1] = said(f"{glyphs.ellipsis} {below + 1} more lines, Down", width, glyphs)
    return part


def longest_scroll(snapshot: Snapshot, width: int, height: int, scene: Scene, glyphs: Glyphs) -> int:
    """Return how far the page of a scene can be scrolled: nobody should have to scroll back what is not there."""
    whole = view(snapshot, width, None, glyphs=glyphs, scene=scene).plain.count("\n") + 1
    return max(0, whole - height)


def _panes(
    snapshot: Snapshot, rows: Sequence[ContainerRow], scene: Scene, height: int | None, glyphs: Glyphs
) -> list[TablePane]:
    """Return the parts of the main page in the order in which they stand."""
    state = scene.state
    panes: list[TablePane] = []
    if Pane.GPUS not in state.hidden:
        panes.append(
            TablePane("GPUs", gpus.SHOWN, gpus.IMPORTANCE, gpus.gpu_rows(snapshot, scene.history), lambda _: "")
        )
    panes.append(_container_pane(rows, scene, glyphs))
    of_groups = groups.group_rows(snapshot)
    if of_groups and Pane.GROUPS not in state.hidden:
        panes.append(TablePane("groups", groups.SHOWN, groups.IMPORTANCE, of_groups, lambda row: str(row.style)))
    if snapshot.queue and Pane.QUEUE not in state.hidden:
        panes.append(
            TablePane(
                "requests",
                queue.SHOWN,
                queue.IMPORTANCE,
                queue.queue_rows(snapshot),
                lambda _: "yellow",
                scrolled=state.scrolled.get(Pane.QUEUE, 0),
                focused=scene.live and state.focus is Pane.QUEUE,
            )
        )
    roomy = height is None or height >= _EVENTS_LINES
    if scene.events and Pane.EVENTS not in state.hidden and (roomy or state.focus is Pane.EVENTS):
        panes.append(_event_pane(scene, panes, height))
    return panes


def _container_pane(rows: Sequence[ContainerRow], scene: Scene, glyphs: Glyphs) -> TablePane:
    state = scene.state
    cursor = cursor_of(rows, state) if scene.live and rows else None
    shown: Sequence[ContainerRow] = rows
    if state.tree:
        shown = [each for row in rows for each in with_processes(row, glyphs)]
        if cursor is not None:
            above = rows[:cursor]
            cursor += sum(len(row.container.processes if row.device is None else row.device.processes) for row in above)
    return TablePane(
        "containers" if not state.tree else "lines",
        containers.SHOWN,
        containers.IMPORTANCE,
        shown,
        lambda row: str(row.style),
        _NO_MATCH if state.filter else _NO_CONTAINERS,
        sorted_by=order.BY_NAME[state.sort].heading,
        cursor=cursor,
    )


def _event_pane(scene: Scene, others: Sequence[TablePane], height: int | None) -> TablePane:
    """The newest events; scrolled up from the end."""
    focused = scene.live and scene.state.focus is Pane.EVENTS
    end = len(scene.events) - min(scene.state.scrolled.get(Pane.EVENTS, 0), max(0, len(scene.events) - 1))
    height = height or _EVENTS_LINES
    left_over = height - _AROUND - sum(1 + pane.lines_wanted for pane in others)
    room = max(left_over, height // 2 if focused else _EVENTS_LEAST)
    return TablePane(
        "events",
        events.SHOWN,
        events.IMPORTANCE,
        scene.events[max(0, end - room) : end],
        events.style_of,
        latest=True,
        focused=focused,
    )


def _last_lines(
    snapshot: Snapshot, rows: Sequence[ContainerRow], scene: Scene, width: int, glyphs: Glyphs
) -> list[Text]:
    known = sum(max(1, len(container.devices)) for container in snapshot.containers)
    return footer_lines(scene.state, len(rows), known, width, glyphs)
