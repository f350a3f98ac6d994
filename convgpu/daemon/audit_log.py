# SPDX-License-Identifier: Apache-2.0
"""The daemon's audit log as its settings want it: how it is opened, how it gets to the disk, what a failure means."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from convgpu.audit.files import Rotation
from convgpu.audit.keys import load_signer
from convgpu.audit.seal import Sealing
from convgpu.audit.writer import AuditWriter
from convgpu.config.forms import NoLimit
from convgpu.config.keys import STOP, DaemonConfig
from convgpu.config.layers import InForce
from convgpu.errors import AuditError
from convgpu.paths import AUDIT_LOG_NAME

_LOG: Final = logging.getLogger("convgpu.daemon")
_SYNC_PAUSE_S: Final = 0.005
"""Between two syncs: a decision is on the disk after this time and that of a sync, however many there are."""


def open_log(config: DaemonConfig) -> AuditWriter:
    """Open the log for writing; its owner brings it to the disk.

    Raises:
        AuditError: It cannot be written, or its key cannot be read.
        EnvironmentMissingError: There is a key, and not the package that signs with it.
    """
    signer = None if config.audit_key == "none" else load_signer(config.audit_key)
    return AuditWriter(
        config.log_dir / AUDIT_LOG_NAME,
        inline_sync=False,
        rotation=Rotation(_known(config.audit_max_size_bytes), _known(config.audit_max_age_ns)),
        sealing=Sealing(_known(config.audit_seal_interval_ns), signer),
    )


def _known(value: int | NoLimit) -> int | None:
    return value if isinstance(value, int) else None


class Disk(threading.Thread):
    """Brings records to the disk, so that nothing waits for it: all that was written meanwhile, in one go."""

    def __init__(self, writer: AuditWriter) -> None:
        super().__init__(name="audit-disk", daemon=True)
        self._writer = writer
        self._asked = threading.Event()
        self._closing = False

    def ask(self) -> None:
        """Sync soon."""
        if not self._asked.is_set():
            self._asked.set()

    def run(self) -> None:
        """Sync whenever somebody asks, with a pause between."""
        while not self._closing:
            self._asked.wait()
            self._asked.clear()
            self._writer.sync()
            time.sleep(_SYNC_PAUSE_S)

    def close(self) -> None:
        """Wait for the last sync."""
        self._closing = True
        self._asked.set()
        self.join()


class AuditFailure:
    """What is done when the log cannot take what happens, as `on_audit_failure` says.

    Args:
        in_force: The settings.
        stop: Ends the daemon.
    """

    def __init__(self, in_force: InForce, stop: Callable[[], None]) -> None:
        self._in_force = in_force
        self._stop = stop
        self._told = False
        self._fatal: AuditError | None = None

    def look(self, writer: AuditWriter) -> None:
        """See whether something is lost; to be called after every write, and now and then."""
        if not writer.lost:
            self._told = False
            return
        if self._told:
            return
        self._told = True
        config = self._in_force.config
        what = f"the audit log {writer.path} cannot take what happens ({writer.losses.reason})"
        if config.on_audit_failure != STOP:
            _LOG.warning("%s: it is counted, and said in the log when it can be written again", what)
            return
        meanwhile = "go on without a limit" if config.fail_open else "wait"
        self._fatal = AuditError(
            f"{what}, and on_audit_failure is {STOP}: the daemon stops, and allocations {meanwhile}",
            next_step="make it writable again, then start the daemon",
        )
        self._stop()

    def check(self) -> None:
        """Say at the end why the daemon has stopped.

        Raises:
            AuditError: Because of the log.
        """
        if self._fatal is not None:
            raise self._fatal
