# SPDX-License-Identifier: Apache-2.0
"""A file that others read at any moment: replaced whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Put a whole file in place at once, on the disk before it has its name; its folder is made where it is missing."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
