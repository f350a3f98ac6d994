# SPDX-License-Identifier: Apache-2.0
"""What the verbs of `convgpu audit` share: which log, from when to when, which records."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from convgpu.audit.chain import parse_head
from convgpu.audit.files import log_files, size_bytes
from convgpu.cli.options import ParsedType
from convgpu.cli.progress import Progress
from convgpu.errors import AuditError
from convgpu.paths import AUDIT_LOG_NAME, configured_log_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convgpu.audit.chain import Head
    from convgpu.audit.verify import VerifyReport

_F = TypeVar("_F", bound=Callable[..., Any])

HEAD: Final = ParsedType("head", parse_head)


def log_argument(function: _F) -> _F:
    """Add the argument LOG: that of this machine's daemon, as its configuration file says, where none is given."""
    return click.argument(
        "log", type=click.Path(path_type=Path), default=lambda: configured_log_dir() / AUDIT_LOG_NAME, required=False
    )(function)


def verified(
    log: Path, head: Head | str | None = None, *, key_file: Path | None = None, partial: bool = False
) -> VerifyReport:
    """Verify a log, with a progress bar; return the report.

    A daemon that begins a new file meanwhile makes it look as if one were missing: then it is looked at again.
    """
    from convgpu.audit.verify import useful_processes, verify_files

    files: Sequence[Path] = ()
    while (found := files_of(log)) != files:
        files = found
        with Progress("verifying", size_bytes(files)) as progress:
            report = verify_files(
                files, head, key_file=key_file, partial=partial, on_bytes=progress.reach,
                processes=useful_processes(files),
            )  # fmt: skip
        if report.ok:
            break
    return report


def files_of(log: Path) -> Sequence[Path]:
    """Return the files of a log, oldest first, all of them readable.

    Raises:
        AuditError: There is none, or this user may not read one of them.
    """
    files = log_files(log)
    for path in files:
        if not os.access(path, os.R_OK):
            raise AuditError(f"not allowed to read {path}", next_step="run the command as root (sudo)")
    return files
