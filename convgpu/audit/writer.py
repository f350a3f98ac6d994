# SPDX-License-Identifier: Apache-2.0
"""The one writer of a log: continues the chain, syncs what must be on the disk, and never loses anything silently.

A record is one `write()` to a file opened with O_APPEND. Records of durable types (all decisions among them) are
followed by fdatasync at once, the others within the sync interval, when the owner calls `flush_due`; the writer has no
thread and no timer of its own. An owner that must not wait for the disk asks for `inline_sync=False`, and calls `sync`
from a thread of its own whenever `urgent` or `dirty` says so.

While the disk is full, records are counted instead of written, and one record of type `loss` says how many as soon as
there is space again. A line that a crash has torn is moved to `NAME.torn`, and a record of type `log.repaired` says so;
the bytes are first kept in `NAME.repairing`, so that a second crash in the middle of the repair is noticed too.

A file that is large or old enough is sealed and put aside under a name of its own (`audit.files`), and the chain goes
on in a new one. The owner calls `tend` now and then for what is due by time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from convgpu.audit.builder import Event, build_record, complete_record
from convgpu.audit.chain import EMPTY_HEAD, Head, canonical_bytes, join_line, link
from convgpu.audit.clock import Clock, SystemClock
from convgpu.audit.disk import MODE, lock, put_aside, sync_folder, write_whole
from convgpu.audit.files import Rotation, archive_path, archives
from convgpu.audit.losses import Losses
from convgpu.audit.records import RECORD_TYPES
from convgpu.audit.seal import SEAL, Sealing, SealReason, signed
from convgpu.audit.tail import FileStart, Tail, read_head, read_start, read_tail
from convgpu.errors import AuditError

SYNC_INTERVAL_NS: Final = 200_000_000
"""How long a record that is not durable by type may be on its way to the disk."""

_ROTATION_RETRY_NS: Final = 300_000_000_000
"""Where a file cannot be put aside, it is tried again after this time; records go on into the old one."""
_NO_ROTATION: Final = Rotation()
_NO_SEALS: Final = Sealing()


class AuditWriter:
    """Appends records to one log.

    Args:
        path: The log; its folder is made if it is not there.
        clock: Time and boot of the records.
        sync_interval_ns: See `SYNC_INTERVAL_NS`.
        inline_sync: False: `write` never waits for the disk; the owner calls `sync`.
        rotation: When a new file begins.
        sealing: How often, and with what key.

    Attributes:
        losses: What is not in the log, and the log does not say yet.

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
        rotation: Rotation = _NO_ROTATION,
        sealing: Sealing = _NO_SEALS,
    ) -> None:
        self.path = path
        self._rotation = rotation
        self._sealing = sealing
        self._clock = clock or SystemClock()
        self._sync_interval_ns = sync_interval_ns
        self._unsynced_since_ns: int | None = None
        self._partial_from: int | None = None
        self._inline_sync = inline_sync
        self._urgent = False
        self._batch_depth = 0
        self.losses = Losses()
        self._head = EMPTY_HEAD
        self._size_bytes = 0
        self._start: FileStart | None = None
        self._unsealed_since_ns: int | None = None
        self._rotate_again_ns = 0
        self._lock_descriptor = lock(path)
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
            self._continue()
            sync_folder(path.parent)
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
        return self.losses.count

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
        self._check_open()
        durable, line, record_hash = self._prepare(type_name, msg, fields)
        if self.lost and self._report_losses():
            durable, line, record_hash = self._prepare(type_name, msg, fields)  # it follows the report now
        if self.losses.records or not self._append(line, record_hash):
            self.losses.records += 1
            return None
        seq = self._head.seq
        self._appended(durable=durable)
        return seq

    def write_events(self, events: Sequence[Event]) -> int | None:
        """Append many records with one system call. For whoever makes them from typed values, many times a second.

        Their fields are not held against their types again; `audit.builder.check_fields` does that in tests.

        Returns:
            The serial number of the last, or None if they could not be written; then they are counted in `lost`.

        Raises:
            AuditError: The writer is closed.
        """
        self._check_open()
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
        if self.losses.records or not self._append(b"".join(lines), record_hash, len(lines)):
            self.losses.records += len(lines)
            return None
        seq = self._head.seq
        self._appended(durable=any(RECORD_TYPES[event.type_name].durable for event in events))
        return seq

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

    def tend(self, now_ns: int) -> None:
        """Do what is due at this monotonic time, but for the disk: report losses, begin a new file, set a seal."""
        if self.lost:
            self._report_losses()
        began_ns = None if self._start is None else self._start.wall_ns
        if _is_due(began_ns, self._clock.wall_ns(), self._rotation.max_age_ns):
            self._rotate("age")
        if _is_due(self._unsealed_since_ns, now_ns, self._sealing.interval_ns):
            self._seal(SealReason.INTERVAL)

    def flush_due(self, now_ns: int) -> None:
        """Do what `tend` does, and sync what is older than the interval."""
        self.tend(now_ns)
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
            self.losses.note(error, self._clock.monotonic_ns())
            self.losses.syncs += 1

    def close(self) -> None:
        """Sync, and let another writer in."""
        if self._descriptor < 0:
            return
        if self.lost:
            self._report_losses()
        if self._unsealed_since_ns is not None and self._sealing != _NO_SEALS:
            self._seal(SealReason.STOP)
        self.sync()
        self._release()

    def _check_open(self) -> None:
        if self._descriptor < 0:
            raise AuditError(f"the audit log {self.path} is closed")

    def _appended(self, *, durable: bool) -> None:
        """Records are in the file: see to the disk, and to the size of the file."""
        self._on_its_way(urgent=durable)
        if durable and self._inline_sync and not self._batch_depth:
            self.sync()
        if self._rotation.max_bytes is not None and self._size_bytes >= self._rotation.max_bytes:
            self._rotate("size")

    def _on_its_way(self, *, urgent: bool) -> None:
        if self._unsynced_since_ns is None:
            self._unsynced_since_ns = self._clock.monotonic_ns()
        self._urgent = self._urgent or urgent

    def _seal(self, reason: SealReason) -> bool:
        """Write a seal, signed where there is a key; False: there is no space for it now, and it is tried again."""
        _, record = build_record(
            SEAL, {"reason": str(reason)}, msg=None, seq=self._head.seq + 1, prev=self._head.hash, clock=self._clock
        )
        if self._sealing.signer is not None:
            record = signed(record, self._sealing.signer)
        canonical = canonical_bytes(record)
        record_hash = link(self._head.hash, canonical)
        if self.losses.records or not self._append(join_line(canonical, record_hash), record_hash):
            return False
        self._unsealed_since_ns = None
        self._on_its_way(urgent=True)
        return True

    def _rotate(self, reason: str) -> None:
        """Close this file, and go on in a new one. Where that cannot be done now, go on in this one."""
        now_ns = self._clock.monotonic_ns()
        if self._start is None or now_ns < self._rotate_again_ns:
            return
        self._rotate_again_ns = now_ns + _ROTATION_RETRY_NS
        archive = archive_path(self.path, self._start.seq)
        if not self._seal(SealReason.ROTATION):
            return
        try:
            os.fdatasync(self._descriptor)
            put_aside(self.path, archive, self._descriptor)
        except OSError as error:
            why = f"the log could not be rotated, and grows on: {error.strerror}"
            self._write_own("reconcile", {"reason": why})
            return
        self._rotate_again_ns = 0
        self._start = None
        try:
            sync_folder(self.path.parent)
        except OSError as error:
            self.losses.note(error, now_ns)
            self.losses.syncs += 1
        self._write_own("log.rotated", {"previous_file": archive.name, "reason": reason})

    def _write_own(self, type_name: str, fields: Mapping[str, object]) -> None:
        """Write a record that the writer itself has reason for, without looking at the size of the file again."""
        _, line, record_hash = self._prepare(type_name, None, fields)
        if self.losses.records or not self._append(line, record_hash):
            self.losses.records += 1
            return
        self._on_its_way(urgent=True)

    def _prepare(self, type_name: str, msg: str | None, fields: Mapping[str, object]) -> tuple[bool, bytes, str]:
        record_type, record = build_record(
            type_name, fields, msg=msg, seq=self._head.seq + 1, prev=self._head.hash, clock=self._clock
        )
        canonical = canonical_bytes(record)
        record_hash = link(self._head.hash, canonical)
        return record_type.durable, join_line(canonical, record_hash), record_hash

    def _append(self, line: bytes, record_hash: str, count: int = 1) -> bool:
        """Write one line, or several, as a whole or not at all; the head moves only with the whole."""
        length = len(line)
        try:
            self._undo()
            self._partial_from = before = os.fstat(self._descriptor).st_size
            while line:  # a second turn only where the disk became full within the line
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            self.losses.note(error, self._clock.monotonic_ns())
            with suppress(OSError):  # the next attempt begins with the same
                self._undo()
            return False
        self._partial_from = None
        self._size_bytes = before + length
        if self._start is None:
            self._start = FileStart(self._head.seq + 1, self._clock.wall_ns())
        if self._unsealed_since_ns is None:
            self._unsealed_since_ns = self._clock.monotonic_ns()
        self._head = Head(self._head.seq + count, record_hash)
        return True

    def _undo(self) -> None:
        """Cut off what a failed write of ours left; never anything that was there before it."""
        if self._partial_from is not None:
            os.ftruncate(self._descriptor, self._partial_from)
            self._partial_from = None

    def _report_losses(self) -> bool:
        """Write what was lost into the log; False if there is still no space for that."""
        syncs = self.losses.syncs
        for fields in self.losses.report(self._clock.monotonic_ns()):
            _, line, record_hash = self._prepare("loss", None, fields)
            if not self._append(line, record_hash):
                return False
        self.losses.reported(syncs)
        self._urgent = True
        return True

    def _continue(self) -> None:
        """Go on where the log ends: in this file, or, where it is new or empty, in the last that was put aside."""
        tail = read_tail(self._descriptor, str(self.path))
        self._head = tail.head
        earlier = archives(self.path) if not tail.whole_bytes else []
        if tail.whole_bytes:
            self._start = read_start(self._descriptor)
            self._size_bytes = tail.whole_bytes
        elif earlier:
            self._head = read_head(earlier[-1])
        self._repair(tail, earlier[-1].name if earlier else None)

    def _repair(self, tail: Tail, previous_file: str | None) -> None:
        repairing = self.path.with_name(self.path.name + ".repairing")
        kept = self.path.with_name(self.path.name + ".torn")
        # Not empty: a crash, or a full disk, came between an earlier cut and its record.
        torn = repairing.read_bytes() if repairing.exists() else b""
        if tail.torn:
            if not torn.endswith(tail.torn):
                torn += tail.torn
            write_whole(repairing, torn, os.O_TRUNC)
            sync_folder(self.path.parent)
            os.ftruncate(self._descriptor, tail.whole_bytes)
        if previous_file is not None:
            reason = "stopped while it rotated, or the file was moved away"
            self._write_own("log.rotated", {"previous_file": previous_file, "reason": reason})
        if not torn:
            return
        self.write("log.repaired", cut_bytes=len(torn), cut_sha256=sha256(torn).hexdigest(), kept_in=kept.name)
        if self.losses.records:
            return  # no space for the record: the next start finds the file and says it then
        write_whole(kept, torn + b"\n", os.O_APPEND)
        repairing.unlink()

    def _release(self) -> None:
        for descriptor in (self._descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock_descriptor = -1


def _is_due(since_ns: int | None, now_ns: int, period_ns: int | None) -> bool:
    return since_ns is not None and period_ns is not None and now_ns - since_ns >= period_ns
