# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/monitor.md from the monitor's tables; with --check only tell whether it is up to date."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Final

from convgpu.tui.containers import STATES
from convgpu.tui.help import BAR_LABEL, SECTIONS
from convgpu.tui.history import SAMPLES_KEPT
from convgpu.tui.keys import INTERVALS_S, KEYS, written
from convgpu.tui.news import EVENTS_KEPT
from convgpu.tui.order import ORDERS

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "monitor.md"

_HEAD: Final = f"""\
# Monitor

Made from the monitor's own tables (`convgpu/tui/keys.py` and the columns beside it) by `tools/monitor_reference.py`;
change those, not this page.

`convgpu top` shows GPUs, containers, who waits, and what happens. It asks the daemon through the control socket and
changes nothing, unless it was started with `--edit`. Where the output is no terminal, or with `--once`, it prints one
plain table and ends; `--json` prints one snapshot, `--jsonl` one a line at every interval.

![The monitor](../images/top.svg)

- Columns come and go with the width: 80 are enough for the first eleven. What has no place is counted, never wrapped.
- What nobody knows is `N/A`, never 0. Colour is never the only sign: states are words, and `NO_COLOR` is respected.
- `--ascii` draws with ASCII characters alone; so it is where the locale is not UTF-8, and on the Linux console, whose
  font has no Braille. `TERM=dumb` gets one plain table.
- The cursor keeps to its container, however the table is sorted. If the container ends, the next takes its place.
- A daemon that goes away is said in the second line, with the age of the figures, and is asked for again each second.
- Ctrl-Z gives the terminal back to the shell, `fg` brings the monitor back. Another size of the terminal is drawn at
  once.
- TREND has a sample for each refresh since the monitor runs, {SAMPLES_KEPT} at most; the close look says how long.
- The newest {EVENTS_KEPT} events are kept, without requests that were granted at once: there may be thousands a second.
  All of them are in the audit log.

## Set a limit

With `--edit`, `{next(key.names[0] for key in KEYS if key.edit)}` asks for the new limit of the container under the \
cursor, then names the container, its limit and
the new one, and does nothing unless `y` is pressed. What the daemon refuses is said in the same place. It is the same
as `convgpu limit set`: recorded in the audit log, on all devices of the container, and without touching what it holds.
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD, "## Keys", "", "| key | what it does |", "|---|---|"]
    for _, keys in groupby(KEYS, key=lambda key: key.group):
        for key in keys:
            names = " ".join(f"`{written(name)}`" for name in key.names)
            lines.append(f"| {names} | {key.meaning}{' (with `--edit`)' if key.edit else ''} |")
    steps = ", ".join(f"{step:g}" for step in INTERVALS_S)
    lines += ["", f"`+` and `-` go through these intervals, in seconds: {steps}."]
    orders = ", ".join(f"`{order.name}`" for order in ORDERS)
    lines += ["", f"`s` and `S` go through these orders: {orders}."]
    lines += ["What is not known comes last, either way round."]
    lines += [
        "",
        "A filter is words: a container is shown if each of them is in its name, group, image, state or the name of",
        "one of its processes, or begins its id.",
    ]
    for title, columns in SECTIONS:
        lines += ["", f"## {title}", "", "| column | what it says |", "|---|---|"]
        lines += [f"| {column.heading or BAR_LABEL} | {column.meaning} |" for column in columns]
    lines += ["", "## States", "", "The gravest is shown.", "", "| state | what it means |", "|---|---|"]
    lines += [f"| `{state}` | {meaning} |" for state, meaning in STATES.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    wanted = page()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(wanted)
        return 0
    if PAGE.is_file() and PAGE.read_text() == wanted:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date: run python tools/monitor_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
