# SPDX-License-Identifier: Apache-2.0
"""The files of one log: the one that is written, and those that rotation has closed.

`audit.jsonl` is written; a closed file carries the serial number of its first record, `audit.000000004711.jsonl`, so
that names sort as records do. Closed files may be compressed (`.gz`): they are read as they are. The hash chain goes on
from one file to the next, so a set of files is verified as one log.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from convgpu.errors import AuditError
from convgpu.paths import AUDIT_LOG_NAME

LONGEST_LINE_BYTES: Final = 64 * 1024 * 1024
"""No record comes near it; a file without newlines is read in pieces of this size."""

_COMPRESSED: Final = ".gz"
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new file begins; None: not for this reason."""

    max_bytes: int | None = None
    max_age_ns: int | None = None


def archive_path(log: Path, first_seq: int) -> Path:
    """Return where rotation puts a file of `log` whose first record has this serial number."""
    return log.with_name(f"{log.stem}.{first_seq:0{_DIGITS}d}{log.suffix}")


def archives(log: Path) -> list[Path]:
    """Return the closed files of `log`, oldest first; of a file and its compressed copy only the file."""
    name = re.compile(rf"{re.escape(log.stem)}\.(\d{{{_DIGITS},}}){re.escape(log.suffix)}(?:{re.escape(_COMPRESSED)})?")
    found: dict[int, Path] = {}
    for path in sorted(log.parent.glob(f"{glob_escaped(log.stem)}.*")):
        match = name.fullmatch(path.name)
        if match is not None:
            found.setdefault(int(match[1]), path)  # sorted: the plain name comes before the one with a suffix
    return [found[seq] for seq in sorted(found)]


def glob_escaped(text: str) -> str:
    """Return a text that `glob` takes literally."""
    return re.sub(r"([*?[])", r"[\1]", text)


def log_files(path: Path) -> list[Path]:
    """Return the files of a log, oldest first.

    Args:
        path: The log, with the files that rotation has closed; a folder: the daemon's log in it. A closed file itself
            is one file, and so is any other.

    Raises:
        AuditError: There is none.
    """
    log = path / AUDIT_LOG_NAME if path.is_dir() else path
    files = archives(log) + ([log] if log.exists() else [])
    if not files:
        raise AuditError(
            f"cannot read the audit log {log}: there is no such file",
            next_step="name the log, or the folder that it is in",
        )
    return files


def opened(path: Path) -> IO[bytes]:
    """Open one file of a log for reading, unpacked.

    Raises:
        OSError: It cannot be opened.
    """
    return cast("IO[bytes]", gzip.open(path, "rb")) if is_compressed(path) else path.open("rb")


def is_compressed(path: Path) -> bool:
    """Whether a file is read through gzip."""
    return path.suffix == _COMPRESSED


def size_bytes(files: Sequence[Path]) -> int:
    """Return what the files take on the disk, compressed where they are; the measure of `on_bytes` below."""
    return sum(path.stat().st_size for path in files)


def read_lines(files: Sequence[Path], on_bytes: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Return the lines of several files, one after another, with their newlines.

    Args:
        files: Oldest first.
        on_bytes: Is told how far it has come, in bytes on the disk, now and then.

    Raises:
        AuditError: One of them cannot be read.
    """
    done_bytes = 0
    for path in files:
        try:
            with path.open("rb") as raw:
                file: Any = gzip.open(raw) if is_compressed(path) else raw  # noqa: SIM115  # `raw` is closed
                for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES), b"")):  # noqa: B023
                    if on_bytes is not None and number % 1024 == 1023:
                        on_bytes(done_bytes + raw.tell())
                    yield line
                done_bytes += raw.tell()
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise AuditError(f"cannot read the audit log {path}: {reason}") from error
        if on_bytes is not None:
            on_bytes(done_bytes)
