# SPDX-License-Identifier: Apache-2.0
"""The lines that say what one is looking at: version and algorithm, the witness, the log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from rich.text import Text

from convgpu.core.status import Snapshot
from convgpu.tui.columns import cut, plain
from convgpu.tui.glyphs import Glyphs

_GAP: Final = 3
_FRACTION: Final = re.compile(r"\.\d+")
_SMALLEST_LIST: Final = 20
"""Cells that a list of what is missing needs to say anything."""
_HEAD_DIGITS: Final = 12


def title_line(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Text:
    """Return the first line. That the GPUs are simulated stands before everything else."""
    waiting = len(snapshot.queue)
    parts = [(f"ConvGPU {snapshot.version}", "bold")]
    if snapshot.simulated:
        parts[0] = (f"ConvGPU {snapshot.version} (simulated)", "bold magenta")
    found = sum(len(each.findings) for each in snapshot.gpus) + sum(len(each.findings) for each in snapshot.containers)
    if found:
        parts.append((_count(found, "finding"), "bold red"))
    parts += [
        (f"{waiting} suspended", "yellow" if waiting else ""),
        (_count(len(snapshot.containers), "container"), ""),
        (f"algorithm {snapshot.algorithm}", ""),
        (f"driver {snapshot.driver}" if snapshot.driver else "driver N/A", ""),
        (_moment(snapshot.taken_at), "dim"),
    ]
    return fitting(parts, width, glyphs)


def witness_line(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Text:
    """Return the line of the witness and the log: what is watched, what was lost, where the chain is."""
    witness = snapshot.witness
    lost = sum(witness.lost.values())
    parts = []
    if not witness.running:
        parts.append((f"probes off: {witness.reason or 'no reason given'}", "yellow"))
    else:
        missing = f", {len(witness.missing)} missing" if witness.missing else ""
        parts.append((f"probes {len(witness.attached)} attached{missing}", "yellow" if missing else ""))
    parts.append((f"events lost {lost}", "red" if lost else ""))
    head = snapshot.audit_head[:_HEAD_DIGITS] if snapshot.audit_head else "N/A"
    sequence = "N/A" if snapshot.audit_seq is None else f"#{snapshot.audit_seq}"
    parts.append((f"audit {sequence} {head}", ""))
    line = fitting(parts, width, glyphs)
    room = width - line.cell_len - _GAP
    if witness.running and witness.missing and room >= _SMALLEST_LIST:
        missing = cut(f"missing: {', '.join(witness.missing)}", room, glyphs.ellipsis)
        line.append(" " * _GAP).append(missing, style="dim")
    return line


def undecided_lines(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Text]:
    """Return a line with what the three-way check cannot find out now, or none."""
    if not snapshot.undecided:
        return []
    text = f"not decided: {'; '.join(snapshot.undecided)}"
    return [Text(cut(text, width, glyphs.ellipsis), style="yellow", no_wrap=True)]


def fitting(parts: Iterable[tuple[str, str]], width: int, glyphs: Glyphs) -> Text:
    """Join parts while they fit; the first is always there, cut if it must be."""
    line = Text(no_wrap=True)
    for text, style in parts:
        if not line:
            line.append(cut(text, width, glyphs.ellipsis), style=style)
        elif line.cell_len + _GAP + Text(plain(text)).cell_len <= width:
            line.append(" " * _GAP).append(plain(text), style=style)
        else:
            break
    return line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _moment(taken_at: str) -> str:
    """Shorten an RFC 3339 time to whole seconds; the zone stays."""
    return _FRACTION.sub("", taken_at).replace("T", " ").replace("+00:00", "Z")
