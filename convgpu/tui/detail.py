# SPDX-License-Identifier: Apache-2.0
"""The close look at one container: its account, the three opinions, history, sizes, what waits, what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from convgpu.core.detail import ContainerDetail
from convgpu.core.status import ContainerStatus, Snapshot, WaitingStatus
from convgpu.tui import account, comparison, events, queue
from convgpu.tui.columns import wrapped
from convgpu.tui.containers import ContainerRow
from convgpu.tui.glyphs import Glyphs
from convgpu.tui.graph import graph_lines
from convgpu.tui.header import fitting
from convgpu.tui.history import History
from convgpu.tui.panes import TablePane, said
from convgpu.tui.sizes import sizes_pane

_ID_DIGITS: Final = 12
_INDENT: Final = "  "


def detail_lines(
    container_id: str,
    snapshot: Snapshot,
    detail: ContainerDetail | None,
    history: History,
    width: int,
    glyphs: Glyphs,
) -> list[Text]:
    """Return the whole close look; a screen shows a part of it.

    Args:
        container_id: Whom it is about.
        snapshot: Has its figures, as long as it is there.
        detail: What else the daemon said of it; None, or one of another container: it has not answered yet.
        history: What it held.
        width: Columns.
        glyphs: The characters that the output can take.
    """
    container = next((each for each in snapshot.containers if each.container_id == container_id), None)
    if detail is not None and detail.container_id != container_id:
        detail = None
    lines: list[Text] = []
    if container is None:
        name = container_id[:_ID_DIGITS] if detail is None else detail.name
        lines.append(said(f"{name} is not there any more.", width, glyphs, "bold yellow"))
    else:
        lines += _head(container, detail, width, glyphs)
        lines += _figures(container, history, width, glyphs)
    if detail is None:
        lines += [Text(), said("The daemon is asked for more.", width, glyphs)]
        return lines
    lines += [Text(), *_whole(sizes_pane(detail.sizes), width, glyphs)]
    lines += _waiting(snapshot, detail.waiting, width, glyphs)
    decisions = TablePane(
        "decisions", events.SHOWN, events.IMPORTANCE, detail.decisions, events.style_of, "No decision about it yet."
    )
    return [*lines, Text(), *_whole(decisions, width, glyphs)]


def _head(container: ContainerStatus, detail: ContainerDetail | None, width: int, glyphs: Glyphs) -> Iterator[Text]:
    rows = [ContainerRow(container, device) for device in container.devices] or [ContainerRow(container, None)]
    state = next((row.state for row in rows if row.state != container.state), container.state)
    style = next((row.style for row in rows if row.style), "green")
    parts = [(container.name, "bold"), (state, style)]
    if not container.guarded:
        parts.append(("not guarded", "yellow"))
    elif detail is not None and detail.limit_source is not None:
        parts.append((f"limit by {detail.limit_source}", ""))
    if container.group is not None:
        parts.append((f"group {container.group}", ""))
    parts += [(container.container_id[:_ID_DIGITS], "dim"), (container.image, "dim")]
    yield fitting(parts, width, glyphs)
    indices = {device.uuid: device.index for device in container.devices}
    for finding in container.findings:
        where = f" on GPU {indices[finding.uuid]}" if finding.uuid in indices else ""
        pids = f", pid {', '.join(map(str, finding.pids))}" if finding.pids else ""
        text = f"{finding.kind}{where}{pids} since {finding.since}: {finding.reason} (action: {finding.action})"
        yield from _wrapped(text, width, "bold red")


def _figures(container: ContainerStatus, history: History, width: int, glyphs: Glyphs) -> Iterator[Text]:
    tables: tuple[TablePane, ...] = (
        TablePane("devices", account.SHOWN, account.IMPORTANCE, container.devices, lambda _: "", "It uses no device."),
        TablePane(
            "processes",
            comparison.SHOWN,
            comparison.IMPORTANCE,
            comparison.comparison_rows(container),
            comparison.style_of,
        ),
    )
    for table in tables[: 2 if container.devices else 1]:
        yield Text()
        yield from _whole(table, width, glyphs)
    for device in container.devices:
        if device.limit_bytes is not None and any(history.used_bytes(container.container_id, device.uuid)):
            yield Text()
            yield from graph_lines(container.container_id, device, history, width, glyphs)


def _waiting(snapshot: Snapshot, waiting: tuple[WaitingStatus, ...], width: int, glyphs: Glyphs) -> Iterator[Text]:
    """What waits, each with the sentences that say why: there is room for them here."""
    if not waiting:
        return
    gpus = {gpu.uuid: gpu for gpu in snapshot.gpus}
    rows = [queue.QueueRow(request, gpus.get(request.uuid)) for request in waiting]
    yield Text()
    heading, *lines = _whole(TablePane("requests", queue.DETAIL, queue.DETAIL, rows, lambda _: "yellow"), width, glyphs)
    yield heading
    for line, row in zip(lines, rows, strict=True):
        yield line
        yield from _wrapped(f"goes on {row.why}" if row.request.goes_on else row.why, width, "")
        if row.request.place:
            yield from _wrapped(f"place: {row.request.place}", width, "dim")


def _whole(pane: TablePane, width: int, glyphs: Glyphs) -> list[Text]:
    return pane.draw(width, pane.lines_wanted, glyphs)


def _wrapped(text: str, width: int, style: str) -> list[Text]:
    room = max(1, width - len(_INDENT))
    indent = _INDENT if width > 2 * len(_INDENT) else ""
    return [Text(indent + line, style=style, no_wrap=True) for line in wrapped(text, room)]
