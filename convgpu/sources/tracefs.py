# SPDX-License-Identifier: Apache-2.0
"""The kernel's tracing file system: bcc reads a tracepoint's number there."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Final

from convgpu.errors import EnvironmentMissingError

_TRACING: Final = "sys/kernel/tracing"
_DEBUG_TRACING: Final = "sys/kernel/debug/tracing"


def ensure_tracefs(root: Path = Path("/")) -> Path:
    """Return where tracefs is mounted, and mount it at its usual place where it is not; it stays mounted.

    Raises:
        EnvironmentMissingError: The kernel has none, or it may not be mounted.
    """
    for name in (_TRACING, _DEBUG_TRACING):
        if (root / name / "events").is_dir():
            return root / name
    mount_point = root / _TRACING
    if not mount_point.is_dir():
        raise EnvironmentMissingError("this kernel has no tracing file system (CONFIG_FTRACE, tracefs)")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", os.fsencode(mount_point), b"tracefs", 0, None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise EnvironmentMissingError(
            f"the tracing file system is not mounted, and mounting it failed: {reason}",
            next_step=f"run `sudo mount -t tracefs tracefs {mount_point}`",
        )
    return mount_point


def field_offset(tracepoint: str, field: str) -> int | None:
    """Return where a field lies in a tracepoint's record, `category:event`; None: the kernel does not say.

    Raises:
        EnvironmentMissingError: There is no tracefs.
    """
    try:
        text = (ensure_tracefs() / "events" / tracepoint.replace(":", "/") / "format").read_text()
    except OSError:
        return None
    match = re.search(rf"\b{re.escape(field)};\s*offset:(\d+);", text)
    return int(match[1]) if match else None
