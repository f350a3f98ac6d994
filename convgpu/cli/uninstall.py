# SPDX-License-Identifier: Apache-2.0
"""`convgpu uninstall`: undo `convgpu install`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Final

import click

from convgpu.cli.install import SERVICE, carry_out, has_systemd, settings, show, systemctl
from convgpu.cli.options import examples
from convgpu.oci.engine_settings import RUNTIME, forgetting
from convgpu.oci.files import replace_file
from convgpu.oci.installation import ENGINE_FILE, Change, Installation

_RELOAD_S: Final = 5.0
"""Docker reads its settings again within milliseconds; longer than this it is not doing so."""
_LOOK_S: Final = 0.05


@click.command(epilog=examples("sudo convgpu uninstall --dry-run", "sudo convgpu uninstall"))
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="The root folder that it was installed into.",
)
def command(dry_run: bool, root: Path) -> None:
    """Undo `convgpu install`: Docker's daemon.json is as before; the runtime, the command and the service are gone.

    What others changed in daemon.json since is kept. State, audit log and settings stay. Containers that were made with
    the runtime convgpu cannot start any more.
    """
    config = settings()
    changes = Installation(root, config.state_dir, config.runtime_next).removal()
    if dry_run:
        show(changes)
        return
    ours = root == Path("/")
    engine_change = next((change for change in changes if change.path.name == ENGINE_FILE.name), None)
    forgotten = True
    if ours and has_systemd():
        systemctl("disable", "--now", SERVICE)
        forgotten = engine_change is None or _docker_forgets(engine_change)
    elif ours:
        forgotten = engine_change is None
    carry_out(changes)
    if ours and has_systemd():
        systemctl("daemon-reload")
    if not forgotten:
        click.echo(
            f"A running Docker knows the runtime {RUNTIME} until it is restarted. If it was the default runtime, no "
            "container starts before that."
        )


def _docker_forgets(change: Change) -> bool:
    """Have a running Docker forget the runtime while its program is still there; False: nobody knows that it has."""
    replace_file(change.path, forgetting(change.after), change.mode)
    if not systemctl("reload", "docker.service"):
        return False
    deadline_s = time.monotonic() + _RELOAD_S
    while time.monotonic() < deadline_s:
        words = ["docker", "info", "--format", "{{json .Runtimes}} {{.DefaultRuntime}}"]
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode == 0 and RUNTIME not in told.stdout:
            return True
        time.sleep(_LOOK_S)
    return False
