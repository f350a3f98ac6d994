# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/hooked-calls.md from wrapper/symbols.def; with --check only tell whether it is up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "hooked-calls.md"
_ENTRY: Final = re.compile(r"^CVG_(HOOK|NVML|IGNORE)\((\w+),\s*(?:(\w+),|\"([^\"]*)\")?", re.MULTILINE)
_KINDS: Final = {
    "ALLOC": ("Size known from the arguments", "Reserved, waiting if it must, before the driver is asked."),
    "CONTEXT": ("Contexts and their limits", "Reserved before the driver is asked, by measurement or formula."),
    "ASYNC": ("On streams", "The driver is asked first; what it lacked is waited for, unless the stream captures."),
    "GROW": ("Memory that the driver takes for itself", "The driver is asked first; what it lacked is waited for."),
    "END": ("Freeing what may be managed, and ending contexts", "Freed memory is announced to those that wait."),
    "FREE": ("Freeing", "Freed memory is announced to those that wait."),
    "CAPTURE": ("Beginning a capture", "Nobody waits while a stream captures."),
    "CAPTURED": ("Ending a capture", "Waiting is possible again."),
    "VIEW": ("Reports", "The container's limit is the whole device."),
    "INIT": ("Start", "The process joins."),
    "RESOLVE": ("Finding calls", "Pointers to hooked calls are replaced."),
}


def page(definitions: str) -> str:
    """Return the page for the text of symbols.def."""
    hooks: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    nvml: list[str] = []
    ignored: dict[str, list[str]] = {}
    for macro, name, kind, reason in _ENTRY.findall(definitions):
        if macro == "HOOK":
            hooks[kind].append(name)
        elif macro == "NVML":
            nvml.append(name)
        else:
            ignored.setdefault(reason, []).append(name)
    lines = [
        "# Hooked calls",
        "",
        "Made from `wrapper/symbols.def` by `tools/hooked_calls.py`; change that list, not this page. Physical memory",
        "is charged at the driver boundary, whatever call asked for it. A hook decides only who can wait.",
    ]
    for kind, (title, what) in _KINDS.items():
        lines += ["", f"## {title}", "", what, "", *(f"- `{name}`" for name in hooks[kind])]
    lines += ["", "## NVML", "", "Memory and processes are those of the container.", "", *(f"- `{n}`" for n in nvml)]
    lines += ["", "## Not hooked, though the name looks like an allocation", "", "| calls | why |", "|---|---|"]
    lines += [f"| {', '.join(f'`{name}`' for name in names)} | {reason} |" for reason, names in ignored.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    wanted = page((ROOT / "wrapper" / "symbols.def").read_text())
    if sys.argv[1:] == ["--check"]:
        if PAGE.is_file() and PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is out of date: run python tools/hooked_calls.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
