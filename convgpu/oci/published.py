# SPDX-License-Identifier: Apache-2.0
"""What the runtime shim goes by: written by the daemon, read where there is no time to read a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from convgpu.oci.files import replace_file
from convgpu.oci.labels import parse_labels
from convgpu.oci.preload import preload_for_content
from convgpu.oci.shim import PUBLISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The shim's settings.

    Attributes:
        next: The runtime that does the work, by path or by name on the PATH.
        unlabelled: `pass` or `guard`: what becomes of containers without any label of ConvGPU.
        daemon_absent: `refuse` or `start`: what becomes of guarded containers while no daemon answers.
        control_socket: Where the daemon answers.
        library: What is preloaded.
        preload_dir: Where the ld.so.preload files lie.
        client_dir: What containers see as /run/convgpu.
    """

    next: str
    unlabelled: str
    daemon_absent: str
    control_socket: Path
    library: Path
    preload_dir: Path
    client_dir: Path

    def text(self) -> str:
        """Return the file: a `name=value` a line."""
        return "".join(f"{name}={getattr(self, name)}\n" for name in self.__slots__)

    def write(self, state_dir: Path) -> None:
        """Put the file in place at once: a container may start at any moment."""
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(state_dir / PUBLISHED, self.text())


def prepare_alone(asked: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, str]:
    """Do for the shim what the daemon would do, as far as it can be done without one: no limit is compared with a GPU.

    Raises:
        UsageError: A label has a bad value.
    """
    parse_labels(asked["labels"])
    client_dir = Path(settings["client_dir"])
    client_dir.mkdir(mode=0o755, parents=True, exist_ok=True)  # the daemon's socket will be in it
    own = None if asked["preload"] is None else asked["preload"].encode("latin-1")
    preload = preload_for_content(own, Path(settings["preload_dir"]), PurePosixPath(asked["library_target"]))
    return {"library": settings["library"], "preload": str(preload), "client_dir": str(client_dir)}
