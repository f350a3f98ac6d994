# SPDX-License-Identifier: Apache-2.0
"""The words of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from convgpu.paths import RunPaths

Status = Literal["ok", "warn", "fail", "skip"]
"""`warn`: ConvGPU works, with less than it could have. `fail`: a main part of it does not. `skip`: not needed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where to look: tests give a folder that looks like a machine.

    Attributes:
        root: Root of the file system, for /proc, /sys, /dev and /etc.
    """

    root: Path = Path("/")
    paths: RunPaths = field(default_factory=RunPaths)

    def read(self, name: str) -> str | None:
        """Return a small file's text below the root, or None where there is none or it may not be read."""
        try:
            return (self.root / name).read_text(errors="replace")
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found, and what to do about it where something is to be done."""

    status: Status
    detail: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its name."""

    name: str
    look: Callable[[Machine], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; the fields are those of `convgpu doctor --json`."""

    name: str
    status: Status
    detail: str
    fix: str | None
