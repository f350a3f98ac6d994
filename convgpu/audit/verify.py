# SPDX-License-Identifier: Apache-2.0
"""Does a log hold together? Streams, in constant memory; a large log is checked by several processes.

What a chain can show: any change, removal, insertion or reordering of records before its last one. What it cannot show
alone: that its end was cut off, or that all of it was written anew by somebody who may write the file. Against both
helps a head kept elsewhere (`expect_head`); against the second also signed seals, where the key is kept from that
somebody (`key`).

A last line without its newline is what a crash leaves behind; it is reported as torn, not as a problem. In any file but
the last it is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

from convgpu.audit.chain import EMPTY_HEAD, Head
from convgpu.audit.files import LONGEST_LINE_BYTES, is_compressed, log_files, read_lines, size_bytes
from convgpu.audit.keys import load_public_key
from convgpu.audit.span import KEPT_PROBLEMS, Problem, ProblemKind, Span, check_link, is_beginning, scan
from convgpu.errors import AuditError

__all__ = ["KEPT_PROBLEMS", "Problem", "ProblemKind", "VerifyReport", "useful_processes", "verify", "verify_files"]

_PIECE_BYTES: Final = 8 * 1024 * 1024
"""What a process checks at a time: some 10,000 records, a tenth of a second."""
_ALONE_BYTES: Final = 4 * _PIECE_BYTES
"""To start processes takes as long as to check a log of this size."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result.

    Attributes:
        ok: No problem was found. A torn last line is none.
        records: Records whose hash fits.
        first_seq, last_seq, first_ts, last_ts: Of the first and the last of them; None: there is none.
        head: The last of them, to be kept elsewhere.
        torn_bytes: Length of a last line without newline; 0: there is none.
        problem_count: All problems; `problems` has the first of them.
        seals, signed_seals: How many seals there are.
        sealed_seq: The last of them; 0: nothing is sealed.
        files: How many files it was.
    """

    ok: bool
    records: int
    first_seq: int | None
    last_seq: int | None
    first_ts: str | None
    last_ts: str | None
    head: Head
    torn_bytes: int
    problem_count: int
    problems: tuple[Problem, ...]
    seals: int = 0
    signed_seals: int = 0
    sealed_seq: int = 0
    files: int = 1


class _Piece(NamedTuple):
    """A stretch of one file that one process checks. `stop`: where it ends; 0: with the file."""

    path: Path
    start: int
    stop: int


def verify(
    log: Path | str | Iterable[bytes], expect_head: Head | str | None = None, *, key_file: Path | None = None
) -> VerifyReport:
    """Check a whole log.

    Args:
        log: Its path, with the files that rotation has put aside beside it; or its lines as bytes with their newlines.
        expect_head: A head kept from earlier, or its hash alone. The log must contain it; it may have grown since.
        key_file: A public key: there must be a seal, and all must be signed with it.

    Raises:
        AuditError: A file or the key cannot be read.
    """
    if isinstance(log, (str, Path)):
        return verify_files(log_files(Path(log)), expect_head, key_file=key_file)
    key = None if key_file is None else load_public_key(key_file)
    joined = _Joined(expect_head, signed=key is not None)
    joined.take("", scan(log, expect_head, key), last=True)
    return joined.report(1)


def verify_files(
    files: Sequence[Path],
    expect_head: Head | str | None = None,
    *,
    key_file: Path | None = None,
    partial: bool = False,
    on_bytes: Callable[[int], object] | None = None,
    processes: int = 1,
) -> VerifyReport:
    """Check the files of a log as one.

    Args:
        files: Oldest first.
        expect_head: As for `verify`.
        key_file: As for `verify`.
        partial: The first file need not be the beginning of the log.
        on_bytes: Is told how far it has come, in bytes on the disk.
        processes: How many share the work. More than one only from a program whose main module may be imported again,
            as `multiprocessing` wants it; `useful_processes` says how many are worth it.

    Raises:
        AuditError: A file or the key cannot be read.
    """
    if key_file is not None:
        load_public_key(key_file)  # a mistake is said here, and not by each process
    pieces = [piece for path in files for piece in _pieces(path)]
    joined = _Joined(expect_head, signed=key_file is not None, partial=partial)
    done_bytes = 0
    names = [path.name if len(files) > 1 else "" for path in files]
    for piece, span in _scanned(pieces, expect_head, key_file, processes):
        place = files.index(piece.path)
        joined.take(names[place], span, first=piece.start == 0, last=piece is pieces[-1])
        done_bytes += _end(piece) - piece.start
        if on_bytes is not None:
            on_bytes(done_bytes)
    return joined.report(len(files))


def useful_processes(files: Sequence[Path]) -> int:
    """Return how many processes are worth starting for these files: one, or as many as there are processors."""
    return len(os.sched_getaffinity(0)) if size_bytes(files) > _ALONE_BYTES else 1


def _pieces(path: Path) -> Iterator[_Piece]:
    """Cut a file at ends of lines; one that is compressed is whole."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = 0
            while not is_compressed(path) and size - start > 2 * _PIECE_BYTES:
                file.seek(start + _PIECE_BYTES)
                file.readline(LONGEST_LINE_BYTES)
                yield _Piece(path, start, file.tell())
                start = file.tell()
            yield _Piece(path, start, 0)
    except OSError as error:
        raise AuditError(f"cannot read the audit log {path}: {error.strerror}") from error


def _end(piece: _Piece) -> int:
    return piece.stop or piece.path.stat().st_size


def _scanned(
    pieces: Sequence[_Piece], expect_head: Head | str | None, key_file: Path | None, processes: int
) -> Iterator[tuple[_Piece, Span]]:
    """Return what was found in each piece, in their order."""
    if processes <= 1:
        for piece in pieces:
            yield piece, _scan_piece(piece, expect_head, key_file)
        return
    # Not forked from this process: it may have threads, such as that of a progress bar.
    with ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as pool:
        waiting: list[tuple[_Piece, Future[Span]]] = []
        for piece in pieces:
            waiting.append((piece, pool.submit(_scan_piece, piece, expect_head, key_file)))
            if len(waiting) > 2 * processes:
                done, result = waiting.pop(0)
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()


def _scan_piece(piece: _Piece, expect_head: Head | str | None, key_file: Path | None) -> Span:
    key = None if key_file is None else load_public_key(key_file)
    return scan(_lines_of(piece), expect_head, key)


def _lines_of(piece: _Piece) -> Iterator[bytes]:
    if piece.start == 0 and piece.stop == 0:
        yield from read_lines([piece.path])
        return
    try:
        with piece.path.open("rb") as file:
            place = file.seek(piece.start)
            while not piece.stop or place < piece.stop:
                line = file.readline(LONGEST_LINE_BYTES)
                if not line:
                    break
                place += len(line)
                yield line
    except OSError as error:
        raise AuditError(f"cannot read the audit log {piece.path}: {error.strerror}") from error


class _Joined:
    """Puts stretches together, one after another."""

    def __init__(self, expect_head: Head | str | None, *, signed: bool, partial: bool = False) -> None:
        self._expect_head = expect_head
        self._signed = signed
        self._partial = partial
        self._expected = EMPTY_HEAD
        self._all = Span()
        self._lines_before = 0
        self._torn_in: str | None = None
        self._file = ""

    def take(self, file: str, span: Span, *, first: bool = True, last: bool = True) -> None:
        """Add the next stretch: of which file, whether it is the first of it, and whether it is the last of all."""
        whole = self._all
        if first:
            self._lines_before = 0
        if span.link is not None:
            if not (self._partial and self._expected == EMPTY_HEAD):
                check_link(span, span.link.line, Head(span.link.seq, span.link.prev), self._expected)
                span.problems.sort(key=lambda problem: problem.line)
            self._expected = span.end
        if span.torn_bytes and not last:
            text = f"the line is cut short ({span.torn_bytes} bytes), and more follows"
            span.complain(span.lines, ProblemKind.BROKEN, text)
        for problem in span.problems[: KEPT_PROBLEMS - len(whole.problems)]:
            line = problem.line + self._lines_before
            whole.problems.append(Problem(line, problem.kind, problem.message, file))
        whole.problem_count += span.problem_count
        self._lines_before += span.lines
        self._file = file
        whole.records += span.records
        if whole.first_seq is None:
            whole.first_seq, whole.first_ts = span.first_seq, span.first_ts
        if span.records:
            whole.head, whole.last_ts = span.head, span.last_ts
        whole.torn_bytes = span.torn_bytes if last else 0
        whole.seals += span.seals
        whole.signed_seals += span.signed_seals
        whole.sealed_seq = span.sealed_seq or whole.sealed_seq
        whole.head_found = whole.head_found or span.head_found

    def report(self, files: int) -> VerifyReport:
        """Return what was found in all of it."""
        whole = self._all
        expect = self._expect_head
        if self._signed and not whole.seals:
            text = "there is no seal, and so nothing is signed"
            self._complain(ProblemKind.SEAL, text)
        if expect is not None and not whole.head_found and not is_beginning(expect):
            wanted = expect if isinstance(expect, str) else expect.hash
            text = f"no valid record has the expected hash {wanted}: truncated or replaced"
            self._complain(ProblemKind.HEAD, text)
        return VerifyReport(
            ok=whole.problem_count == 0,
            records=whole.records,
            first_seq=whole.first_seq,
            last_seq=whole.head.seq if whole.records else None,
            first_ts=whole.first_ts,
            last_ts=whole.last_ts,
            head=whole.head,
            torn_bytes=whole.torn_bytes,
            problem_count=whole.problem_count,
            problems=tuple(whole.problems),
            seals=whole.seals,
            signed_seals=whole.signed_seals,
            sealed_seq=whole.sealed_seq,
            files=files,
        )

    def _complain(self, kind: ProblemKind, message: str) -> None:
        self._all.problem_count += 1
        if len(self._all.problems) < KEPT_PROBLEMS:
            self._all.problems.append(Problem(self._lines_before, kind, message, self._file))
