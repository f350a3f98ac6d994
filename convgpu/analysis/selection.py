# SPDX-License-Identifier: Apache-2.0
"""Reads a log record by record, and picks those that somebody asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec

from convgpu.audit.files import read_lines
from convgpu.core.events import LogEvent, shortened, topic_of
from convgpu.errors import AuditError

Record = Mapping[str, Any]
_DECODER: Final = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records are wanted; what is None or empty leaves all of them.

    Attributes:
        since: Not before this time, as the field `ts` has it, or the beginning of one.
        until: Before this time.
        types: Record types, topics such as `decision`, or patterns such as `decision.*`.
        container: Name, id or the beginning of the id.
        gpu: Index or UUID.
        process: Pid, or the kernel's name of it.
        reason: Word in the field `reason`.
        outcome: Word in the field `outcome`.
    """

    since: str | None = None
    until: str | None = None
    types: tuple[str, ...] = ()
    container: str | None = None
    gpu: str | None = None
    process: str | None = None
    reason: str | None = None
    outcome: str | None = None

    def wants(self, record: Record) -> bool:
        """Whether a record is one of those."""
        ts = record["ts"]
        return (
            (self.since is None or ts >= self.since)
            and (self.until is None or ts < self.until)
            and (not self.types or _is_type(record["type"], self.types))
            and (self.container is None or _is_container(record, self.container))
            and (self.gpu is None or _is_gpu(record, self.gpu))
            and (self.process is None or _is_process(record, self.process))
            and (self.reason is None or record.get("reason") == self.reason)
            and (self.outcome is None or record.get("outcome") == self.outcome)
        )


def _is_type(name: str, wanted: Sequence[str]) -> bool:
    return any(name == each or topic_of(name) == each or fnmatchcase(name, each) for each in wanted)


def _is_container(record: Record, wanted: str) -> bool:
    container = record.get("container")
    return container is not None and (container.get("name") == wanted or container["id"].startswith(wanted))


def _is_gpu(record: Record, wanted: str) -> bool:
    return any(wanted in (gpu["id"], str(gpu.get("index"))) for gpu in _several(record, "gpu", "gpus"))


def _is_process(record: Record, wanted: str) -> bool:
    several = _several(record, "process", "processes")
    return any(wanted in (str(process["pid"]), process.get("comm")) for process in several)


def _several(record: Record, one: str, many: str) -> Sequence[Record]:
    found = record.get(one)
    return [found] if found is not None else record.get(many) or ()


def read_records(files: Sequence[Path], on_bytes: Callable[[int], object] | None = None) -> Iterator[dict[str, Any]]:
    """Return the records of a log, oldest first. A torn last line is passed over. Hashes are not checked.

    Raises:
        AuditError: A file cannot be read, or a line is not a record.
    """
    for line in read_lines(files, on_bytes):
        yield from decoded(line)


def read_selected(
    files: Sequence[Path], selection: Selection, on_bytes: Callable[[int], object] | None = None
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Return what is wanted of a log: each line as it is, with its newline, and its record.

    Raises:
        AuditError: As `read_records`.
    """
    for line in read_lines(files, on_bytes):
        for record in decoded(line):
            if selection.wants(record):
                yield line, record


def decoded(line: bytes) -> Iterator[dict[str, Any]]:
    """Return the record of a line; nothing for one without its newline.

    Raises:
        AuditError: It is not a record.
    """
    if not line.endswith(b"\n"):
        return
    try:
        record = _DECODER.decode(line)
        known = isinstance(record["type"], str) and isinstance(record["seq"], int) and isinstance(record["ts"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise _no_record(line) from error
    if not known:
        raise _no_record(line)
    yield record


def _no_record(line: bytes) -> AuditError:
    begin = line[:40].decode("utf-8", "replace").rstrip()
    return AuditError(
        f"the line '{begin}...' is not an audit record", next_step="run `convgpu audit verify` on the log"
    )


def log_event(record: Record) -> LogEvent:
    """Return a record as `convgpu events` tells it."""
    return shortened(
        record, seq=record["seq"], ts=record["ts"], mono_ns=record["mono_ns"], type_name=record["type"],
        sentence=record["msg"],
    )  # fmt: skip
