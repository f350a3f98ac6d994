# SPDX-License-Identifier: Apache-2.0
"""`convgpu uninstall`: undo `convgpu install`."""

from __future__ import annotations

from pathlib import Path

import click

from convgpu.cli.install import SERVICE, carry_out, has_systemd, settings, show, systemctl
from convgpu.cli.options import examples
from convgpu.oci.installation import ENGINE_FILE, Installation


@click.command(epilog=examples("sudo convgpu uninstall --dry-run", "sudo convgpu uninstall"))
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="The root folder that it was installed into.",
)
def command(dry_run: bool, root: Path) -> None:
    """Undo `convgpu install`: Docker's daemon.json is as it was before, the runtime and the service are gone.

    What others changed in daemon.json since is kept. State, audit log and settings stay. Containers that were made with
    the runtime convgpu cannot start any more.
    """
    config = settings()
    changes = Installation(root, config.state_dir, config.runtime_next).removal()
    if dry_run:
        show(changes)
        return
    ours = root == Path("/") and has_systemd()
    if ours:
        systemctl("disable", "--now", SERVICE)
    carry_out(changes)
    if ours:
        systemctl("daemon-reload")
        if any(change.path.name == ENGINE_FILE.name for change in changes):
            systemctl("reload", "docker.service")
