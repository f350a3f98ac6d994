# SPDX-License-Identifier: Apache-2.0
"""The one writer of a log: continues the chain, syncs what must be on the disk, and never loses anything silently.

A record is one `write()` to a file opened with O_APPEND. Records of durable types (all decisions among them) are
followed by fdatasync at once, the others within the sync interval, when the owner calls `flush_due`; the writer has no
thread and no timer of its own. An owner that must not wait for the disk asks for `inline_sync=False`, and calls `sync`
from a thread of its own whenever `urgent` or `dirty` says so.

While the disk is full, enforcement must go on: records are counted instead of written, and one record of type `loss`
says how many as soon as there is space again. A line that a crash has torn is moved to `NAME.torn`, and a record of
type `log.repaired` says so; the bytes are first kept in `NAME.repairing`, so that a second crash in the middle of the
repair is noticed too.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from convgpu.audit.builder import Event, build_record, complete_record
from convgpu.audit.chain import Head, canonical_bytes, join_line, link
from convgpu.audit.clock import Clock, SystemClock
from convgpu.audit.records import RECORD_TYPES
from convgpu.audit.tail import Tail, read_tail
from convgpu.errors import AuditError

SYNC_INTERVAL_NS: Final = 200_000_000
"""How long a record that is not durable by type may be on its way to the disk."""

_MODE: Final = 0o640


class AuditWriter:
    """Appends records to one log.

    Args:
        path: The log; its folder is made if it is not there.
        clock: Time and boot of the records.
        sync_interval_ns: See `SYNC_INTERVAL_NS`.
        inline_sync: False: `write` never waits for the disk; the owner calls `sync`.

    Raises:
        AuditError: Another process writes this log, it cannot be opened, or it does not end in a valid record.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        sync_interval_ns: int = SYNC_INTERVAL_NS,
        inline_sync: bool = True,
    ) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._sync_interval_ns = sync_interval_ns
        self._unsynced_since_ns: int | None = None
        self._partial_from: int | None = None
        self._inline_sync = inline_sync
        self._urgent = False
        self._batch_depth = 0
        self._lost_records = 0
        self._failed_syncs = 0
        self._reported_syncs = 0
        self._loss_since_ns = 0
        self._loss_reason = ""
        self._lock_descriptor = _lock(path)
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            tail = read_tail(self._descriptor, str(path))
            self._head = tail.head
            self._repair(tail)
            _sync_folder(path.parent)
        except OSError as error:
            self._release()
            raise AuditError(f"cannot write the audit log {path}: {error.strerror}") from error
        except AuditError:
            self._release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def head(self) -> Head:
        """The last record written."""
        return self._head

    @property
    def lost(self) -> int:
        """Records that were not written and syncs that failed since the last record of type `loss`."""
        return self._lost_records + self._failed_syncs - self._reported_syncs

    @property
    def dirty(self) -> bool:
        """Whether a record is on its way to the disk."""
        return self._unsynced_since_ns is not None

    @property
    def urgent(self) -> bool:
        """Whether one of them is of a durable type, and should not be kept waiting."""
        return self._urgent

    @property
    def next_flush_ns(self) -> int | None:
        """When, on the monotonic clock, `flush_due` has something to do; None: nothing is on its way."""
        if self.lost:
            return self._clock.monotonic_ns() + self._sync_interval_ns
        return None if self._unsynced_since_ns is None else self._unsynced_since_ns + self._sync_interval_ns

    def write(self, type_name: str, /, *, msg: str | None = None, **fields: object) -> int | None:
        """Append one record.

        Args:
            type_name: One of `audit.records.RECORD_TYPES`.
            msg: A sentence for a person; None: the type's own.
            fields: As the type asks for.

        Returns:
            Its serial number, or None if it could not be written; then it is counted in `lost`.

        Raises:
            ValueError: The type or a field is not as `audit.records` defines it.
            AuditError: The writer is closed.
        """
        if self._descriptor < 0:
            raise AuditError(f"the audit log {self.path} is closed")
        durable, line, record_hash = self._prepare(type_name, msg, fields)
        if self.lost and self._report_losses():
            durable, line, record_hash = self._prepare(type_name, msg, fields)  # it follows the report now
        if self._lost_records or not self._append(line, record_hash):
            self._lost_records += 1
            return None
        if self._unsynced_since_ns is None:
            self._unsynced_since_ns = self._clock.monotonic_ns()
        if durable:
            self._urgent = True
            if self._inline_sync and not self._batch_depth:
                self.sync()
        return self._head.seq

    def write_events(self, events: Sequence[Event]) -> int | None:
        """Append many records with one system call. For whoever makes them from typed values, many times a second.

        Their fields are not held against their types again; `audit.builder.check_fields` does that in tests.

        Returns:
            The serial number of the last, or None if they could not be written; then they are counted in `lost`.

        Raises:
            AuditError: The writer is closed.
        """
        if self._descriptor < 0:
            raise AuditError(f"the audit log {self.path} is closed")
        if self.lost:
            self._report_losses()
        seq, record_hash = self._head
        lines = []
        for event in events:
            seq += 1
            record = complete_record(event, seq=seq, prev=record_hash, boot_id=self._clock.boot_id)
            canonical = canonical_bytes(record)
            record_hash = link(record_hash, canonical)
            lines.append(join_line(canonical, record_hash))
        if self._lost_records or not self._append(b"".join(lines), record_hash, len(lines)):
            self._lost_records += len(lines)
            return None
        if self._unsynced_since_ns is None:
            self._unsynced_since_ns = self._clock.monotonic_ns()
        if any(RECORD_TYPES[event.type_name].durable for event in events):
            self._urgent = True
            if self._inline_sync and not self._batch_depth:
                self.sync()
        return self._head.seq

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Let the durable records written inside share one fdatasync, at the end."""
        self._batch_depth += 1
        try:
            yield
        finally:
            self._batch_depth -= 1
            if self._urgent and self._inline_sync and not self._batch_depth:
                self.sync()

    def flush_due(self, now_ns: int) -> None:
        """Do what is due at this monotonic time: sync what is older than the interval, report losses if possible."""
        if self.lost:
            self._report_losses()
        if self._unsynced_since_ns is not None and now_ns - self._unsynced_since_ns >= self._sync_interval_ns:
            self.sync()

    def sync(self) -> None:
        """Bring all that was written before to the disk. A failure is counted in `lost`, not raised.

        May be called in another thread than the other methods, but not in two at a time.
        """
        # First the marks, then the disk: what is written meanwhile sets them again.
        self._urgent = False
        self._unsynced_since_ns = None
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._note_loss(error)
            self._failed_syncs += 1

    def close(self) -> None:
        """Sync, and let another writer in."""
        if self._descriptor < 0:
            return
        if self.lost:
            self._report_losses()
        self.sync()
        self._release()

    def _prepare(self, type_name: str, msg: str | None, fields: Mapping[str, object]) -> tuple[bool, bytes, str]:
        record_type, record = build_record(
            type_name, fields, msg=msg, seq=self._head.seq + 1, prev=self._head.hash, clock=self._clock
        )
        canonical = canonical_bytes(record)
        record_hash = link(self._head.hash, canonical)
        return record_type.durable, join_line(canonical, record_hash), record_hash

    def _append(self, line: bytes, record_hash: str, count: int = 1) -> bool:
        """Write one line, or several, as a whole or not at all; the head moves only with the whole."""
        try:
            self._undo()
            self._partial_from = os.fstat(self._descriptor).st_size
            while line:  # a second turn only where the disk became full within the line
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            self._note_loss(error)
            with suppress(OSError):  # the next attempt begins with the same
                self._undo()
            return False
        self._partial_from = None
        self._head = Head(self._head.seq + count, record_hash)
        return True

    def _undo(self) -> None:
        """Cut off what a failed write of ours left; never anything that was there before it."""
        if self._partial_from is not None:
            os.ftruncate(self._descriptor, self._partial_from)
            self._partial_from = None

    def _note_loss(self, error: OSError) -> None:
        if not self.lost:
            self._loss_since_ns = self._clock.monotonic_ns()
        self._loss_reason = error.strerror or type(error).__name__

    def _report_losses(self) -> bool:
        """Write what was lost into the log; False if there is still no space for that."""
        period_ns = self._clock.monotonic_ns() - self._loss_since_ns
        failed_syncs = self._failed_syncs - self._reported_syncs
        for what, count in (("not written", self._lost_records), ("not synced", failed_syncs)):
            if count:
                reason = f"{what}: {self._loss_reason}"
                fields = {"reason": reason, "count": count, "period_ns": period_ns}
                _, line, record_hash = self._prepare("loss", None, fields)
                if not self._append(line, record_hash):
                    return False
        self._lost_records = 0
        self._reported_syncs += failed_syncs
        self._urgent = True
        return True

    def _repair(self, tail: Tail) -> None:
        repairing = self.path.with_name(self.path.name + ".repairing")
        kept = self.path.with_name(self.path.name + ".torn")
        # Not empty: a crash, or a full disk, came between an earlier cut and its record.
        torn = repairing.read_bytes() if repairing.exists() else b""
        if tail.torn:
            if not torn.endswith(tail.torn):
                torn += tail.torn
            _write_whole(repairing, torn, os.O_TRUNC)
            _sync_folder(self.path.parent)
            os.ftruncate(self._descriptor, tail.whole_bytes)
        if not torn:
            return
        self.write("log.repaired", cut_bytes=len(torn), cut_sha256=sha256(torn).hexdigest(), kept_in=kept.name)
        if self._lost_records:
            return  # no space for the record: the next start finds the file and says it then
        _write_whole(kept, torn + b"\n", os.O_APPEND)
        repairing.unlink()

    def _release(self) -> None:
        for descriptor in (self._descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock_descriptor = -1


def _lock(path: Path) -> int:
    """Take the lock beside the log: it stays where it is when the log itself is rotated."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise AuditError(f"cannot write the audit log {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise AuditError(
            f"another process (pid {owner}) writes the audit log {path}",
            next_step="stop it, or choose another log folder",
        ) from error
    with suppress(OSError):  # a full disk; the pid only makes the message above better
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def _write_whole(path: Path, content: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, _MODE)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
