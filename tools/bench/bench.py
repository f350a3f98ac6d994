# SPDX-License-Identifier: Apache-2.0
"""What a measurement is given, and where its raw data and its lines of the table go."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from figures import Row
from gpu import BenchGpu
from session import Rig

from convgpu.testing.stage import AuditTail, Stage, StageDaemon, StageError, wait_until

_T = TypeVar("_T")
_WITNESS_S = 30.0


class RawData:
    """Appends JSON lines to DIR/samples.jsonl: every sample that the table rests on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = (folder / "samples.jsonl").open("w")

    def add(self, measurement: str, **words: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps({"measurement": measurement} | words) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class Bench:
    """One run.

    Attributes:
        gpu: The GPU.
        rig: Starts programs in containers.
        folder: What containers see as /stage; daemons have their folders beside it.
        raw: The raw data.
        generations: How many times processes are started anew.
        processes: How many start at once in the herd.
        torch: The interpreter with PyTorch, or None.
        load: The machine's load averages before the run.
        rows: The table, as it grows.
        notes: What a reader of the table has to know besides.
    """

    gpu: BenchGpu
    rig: Rig
    folder: Path
    raw: RawData
    generations: int
    processes: int
    torch: str | None
    load: tuple[float, float, float] = field(default_factory=os.getloadavg)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _daemons: int = 0

    def row(self, what: str, found: str, target: str = "", *, holds: bool | None = None) -> None:
        """Add a line to the table, and show it."""
        row = Row(what, found, target, holds)
        self.rows.append(row)
        print(f"  {what}: {found}" + (f" [target {target}: {row.verdict}]" if target else ""), flush=True)

    @contextmanager
    def daemon(self, *options: str) -> Iterator[Stage]:
        """Have a daemon of its own, with the witness attached if it can be."""
        self._daemons += 1
        folder = self.folder / f"daemon-{self._daemons}"
        folder.mkdir()
        Path(os.environ["CONVGPU_RUN_DIR"]).mkdir(parents=True, exist_ok=True)
        daemon = StageDaemon(folder, [*self.gpu.daemon, *options])
        daemon.start()
        stage = Stage(daemon, self.folder, self.gpu.docker)
        try:
            self._wait_for_witness(stage)
            yield stage
        finally:
            self._stop(daemon, folder)

    def _stop(self, daemon: StageDaemon, folder: Path) -> None:
        """Stop a daemon and keep what it said beyond its greeting; one that has to be killed is a failure to show."""
        try:
            daemon.stop()
        except StageError as error:
            self.row("daemon: ends when it is told to", str(error), "within 15 s", holds=False)
        said = (folder / "daemon.stderr").read_text()
        if len(said.splitlines()) > 1:
            (self.raw.folder / f"{folder.name}.stderr").write_text(said)
            self.notes.append(f"A daemon wrote more than its greeting to stderr: {folder.name}.stderr.")

    def _wait_for_witness(self, stage: Stage) -> None:
        """What the probes miss before they are in place is not theirs to tell; without BPF there is none."""
        try:
            wait_until("the witness is attached", lambda: stage.snapshot()["witness"]["running"], _WITNESS_S)
        except StageError:
            note = f"No witness: {stage.snapshot()['witness']['reason']}."
            if note not in self.notes:
                self.notes.append(note)


def records(stage: Stage, record_type: str, container_id: str) -> list[dict[str, Any]]:
    """The audit log's records of a type about a container."""
    tail = AuditTail(stage.daemon.log)
    found = tail.follow()
    return [
        record
        for record in found
        if record["type"] == record_type and (record.get("container") or {}).get("id") == container_id
    ]


def at_rest(read: Callable[[], _T]) -> _T:
    """Read until two readings in a row are the same."""
    return settled(read, lambda _: False)


def settled(read: Callable[[], _T], agree: Callable[[_T], bool], timeout_s: float = 5.0) -> _T:
    """Read until the figures agree; where they do not, until two readings in a row are the same, at rest."""
    before = read()
    deadline = time.monotonic() + timeout_s
    while not agree(before) and time.monotonic() < deadline:
        time.sleep(0.1)
        now = read()
        if now == before:
            return now
        before = now
    return before


def first_line(command: Sequence[str]) -> str:
    """The first line a command prints, or `unknown`."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
