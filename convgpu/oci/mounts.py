# SPDX-License-Identifier: Apache-2.0
"""Mounts: those that ConvGPU adds to a container, and those that the user's own arguments ask for."""

from __future__ import annotations

import csv
import io
import posixpath
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from convgpu.oci.arguments import RunArguments

_TARGET_KEYS: Final = ("target", "destination", "dst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount that the user asks for.

    Attributes:
        target: Where it appears in the container, without `.`, `..` and doubled slashes.
        bind: It shows a file or folder of the host, in which Docker would have to create what is mounted below it.
        argument: The option as the user wrote it, for messages.
    """

    target: PurePosixPath
    bind: bool
    argument: str

    def covers(self, path: PurePosixPath) -> bool:
        """Tell whether a path of the container lies on or below this mount."""
        return self.target in (path, *path.parents)


def bind_argument(source: str, target: str) -> str:
    """Write the value of `--mount` for a read-only bind mount. Unlike `--volume` it fails where the source is missing.

    Docker reads the value as one line of CSV, so a path may contain commas and quotes.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={source}", f"target={target}", "readonly"])
    return line.getvalue()


def mounts_of(arguments: RunArguments) -> tuple[Mount, ...]:
    """Return the mounts that the user's arguments ask for, as far as they were understood."""
    mounts = [_from_volume(value) for value in arguments.values("volume")]
    mounts += [mount for value in arguments.values("mount") if (mount := _from_mount(value)) is not None]
    mounts += [
        Mount(target=_normal(value.partition(":")[0]), bind=False, argument=f"--tmpfs {value}")
        for value in arguments.values("tmpfs")
    ]
    return tuple(mounts)


def _from_volume(value: str) -> Mount:
    """Read `TARGET`, `SOURCE:TARGET` or `SOURCE:TARGET:OPTIONS`; a source with a slash is a path, else a volume."""
    source, has_source, rest = value.partition(":")
    target = rest.partition(":")[0] if has_source else source
    bind = bool(has_source) and ("/" in source or source.startswith("."))
    return Mount(target=_normal(target), bind=bind, argument=f"--volume {value}")


def _from_mount(value: str) -> Mount | None:
    fields = next(csv.reader([value]), [])
    pairs = {key.strip().lower(): text for key, _, text in (field.partition("=") for field in fields)}
    target = next((pairs[key] for key in _TARGET_KEYS if key in pairs), None)
    if target is None:
        return None
    return Mount(target=_normal(target), bind=pairs.get("type") == "bind", argument=f"--mount {value}")


def _normal(path: str) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath("/" + path.lstrip("/")))
