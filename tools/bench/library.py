# SPDX-License-Identifier: Apache-2.0
"""The library itself: its file, what it occupies in a process, and whether it starts threads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from bench import Bench
from session import NATIVE, WRAPPED, Session

from convgpu.native import native_dir

KIB: Final = 1024
_FILE_MOST_BYTES: Final = 150_000
_RESIDENT_MOST_KIB: Final = 1024
_NAME: Final = "libconvgpu.so"


def measure(bench: Bench) -> None:
    """Look at a wrapped process that has allocated, and at its native twin."""
    file_bytes = (native_dir() / _NAME).stat().st_size
    bench.row("library: file", f"{file_bytes} bytes", "< 150 KB", holds=file_bytes < _FILE_MOST_BYTES)
    with bench.daemon(), bench.rig.pair("calls", "4GiB") as sessions:
        for session in sessions.values():
            session.ask(f"pair {4 << 20} 100")
        library_kib = _resident_kib(sessions[WRAPPED], _NAME)
        whole_kib = {arm: _resident_kib(session, "") for arm, session in sessions.items()}
        threads = {arm: _threads(session) for arm, session in sessions.items()}
    bench.raw.add("library", file_bytes=file_bytes, library_kib=library_kib, process_kib=whole_kib, threads=threads)
    bench.row(
        "library: resident in a process, its mappings",
        f"{library_kib} KiB",
        "< 1 MiB",
        holds=0 < library_kib < _RESIDENT_MOST_KIB,
    )
    more_kib = whole_kib[WRAPPED] - whole_kib[NATIVE]
    bench.row(
        "library: resident, wrapped process minus native one",
        f"{whole_kib[WRAPPED]} - {whole_kib[NATIVE]} = {more_kib} KiB",
        "< 1 MiB",
        holds=more_kib < _RESIDENT_MOST_KIB,
    )
    bench.row(
        "library: threads, wrapped process minus native one",
        f"{threads[WRAPPED]} - {threads[NATIVE]} = {threads[WRAPPED] - threads[NATIVE]}",
        "0",
        holds=threads[WRAPPED] == threads[NATIVE],
    )


def _resident_kib(session: Session, name: str) -> int:
    """Sum up Rss over the mappings whose file ends with a name; its zeroed data has no file and is not among them."""
    total_kib, counts = 0, False
    for line in Path(f"/proc/{session.pid()}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = line.endswith(name)
        elif counts and line.startswith("Rss:"):
            total_kib += int(line.split()[1])
    return total_kib


def _threads(session: Session) -> int:
    return len(list(Path(f"/proc/{session.pid()}/task").iterdir()))
