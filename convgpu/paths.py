# SPDX-License-Identifier: Apache-2.0
"""The folders and sockets that daemon, command line and containers agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_RUN_DIR: Final = Path("/run/convgpu")
DEFAULT_STATE_DIR: Final = Path("/var/lib/convgpu")
DEFAULT_LOG_DIR: Final = Path("/var/log/convgpu")
DEFAULT_CONFIG_FILE: Final = Path("/etc/convgpu/config.toml")
CONFIG_VARIABLE: Final = "CONVGPU_CONFIG"
"""The environment variable that names another configuration file."""


@dataclass(frozen=True, slots=True)
class RunPaths:
    """What a running daemon lives by.

    What containers have mounted lies in the state folder: it must be there when Docker starts a container again after a
    reboot, and Docker is there before the daemon is.

    Attributes:
        run_dir: What may vanish at a reboot; readable by root only.
        state_dir: What may not; readable by root only, but for the folders that containers see through their mounts.
    """

    run_dir: Path = DEFAULT_RUN_DIR
    state_dir: Path = DEFAULT_STATE_DIR

    @property
    def control_socket(self) -> Path:
        """Where the command line talks to the daemon; root only."""
        return self.run_dir / "control.sock"

    @property
    def client_dir(self) -> Path:
        """The folder that containers see, read-only, as /run/convgpu."""
        return self.state_dir / "client"

    @property
    def client_socket(self) -> Path:
        """Where wrappers talk to the daemon; everybody may connect, the kernel says who it is."""
        return self.client_dir / "client.sock"

    @property
    def pages_dir(self) -> Path:
        """Credit pages, one file a process. They outlive the daemon: they are what a restarted one starts from."""
        return self.run_dir / "pages"

    @property
    def accounts(self) -> Path:
        """What is set aside for every container now; see `convgpu.daemon.accounts`."""
        return self.run_dir / "accounts"

    @property
    def preload_dir(self) -> Path:
        """The `ld.so.preload` files, one for each image that has its own."""
        return self.state_dir / "preload"


def configured_run_dir(config_file: Path | None = None) -> Path:
    """Return the run folder that the configuration file names, so that every command finds the daemon there.

    A file that is not there, may not be read or has mistakes names none: to say so is for the daemon and for
    `convgpu config check`, not for a command that only looks for the socket.
    """
    return _configured("run_dir", DEFAULT_RUN_DIR, config_file)


def configured_log_dir(config_file: Path | None = None) -> Path:
    """Return the log folder that the configuration file names, in the same way."""
    return _configured("log_dir", DEFAULT_LOG_DIR, config_file)


def _configured(key: str, default: Path, config_file: Path | None) -> Path:
    file = config_file or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG_FILE)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return default
    import tomllib  # most machines have no file, and most commands need nothing else of it

    try:
        named = tomllib.loads(text).get(key)
    except tomllib.TOMLDecodeError:
        return default
    return Path(named) if isinstance(named, str) else default


AUDIT_LOG_NAME: Final = "audit.jsonl"
STATE_FILE_NAME: Final = "state.json"
