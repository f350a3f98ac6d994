# SPDX-License-Identifier: Apache-2.0
"""One daemon for one run folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from convgpu.errors import ConvgpuError


def only_one(run_dir: Path) -> int:
    """Take the lock that only one daemon can hold; it goes with the process, however it ends.

    Raises:
        ConvgpuError: Another daemon serves this run folder.
    """
    descriptor = os.open(run_dir / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConvgpuError(
            f"another ConvGPU daemon serves {run_dir}", next_step="stop it first, or give another --run-dir"
        ) from error
    return descriptor
