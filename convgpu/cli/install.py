# SPDX-License-Identifier: Apache-2.0
"""`convgpu install`: make ConvGPU a runtime of Docker and a service of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from convgpu.cli.options import examples
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import Layers
from convgpu.daemon.publishing import publish
from convgpu.errors import UsageError
from convgpu.oci.installation import ENGINE_FILE, Change, Installation
from convgpu.paths import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE

SERVICE = "convgpu.service"
_VALIDATION_TIMEOUT_S = 30


@click.command(
    epilog=examples("sudo convgpu install --dry-run", "sudo convgpu install", "sudo convgpu install --default-runtime")
)
@click.option("--default-runtime", is_flag=True, help="Every container goes through ConvGPU's runtime.")
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="Install into another root folder, such as an image's; no service is started.",
)
def command(default_runtime: bool, dry_run: bool, root: Path) -> None:
    """Make ConvGPU a runtime of Docker (docker run --runtime=convgpu), a command of it (docker convgpu), and a service.

    Docker's daemon.json keeps everything that is in it; as it was before it stays beside it. `convgpu uninstall` undoes
    all of it. What is in place already is left alone.
    """
    config = settings()
    changes = Installation(root, config.state_dir, config.runtime_next).changes(default=default_runtime)
    if dry_run:
        show(changes)
        return
    _validate(changes)
    carry_out(changes)
    if root == Path("/"):
        publish(config)
        _start(changes)


def settings() -> DaemonConfig:
    """Return the daemon's settings as the configuration file has them."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Layers(Path(named) if named else DEFAULT_CONFIG_FILE, required=bool(named)).read().config


def show(changes: Sequence[Change]) -> None:
    """Print what would be changed."""
    for change in changes:
        for line in change.diff():
            click.echo(line)
    if not changes:
        click.echo("Nothing is to be done.")


def carry_out(changes: Sequence[Change]) -> None:
    """Make the changes and say each."""
    for change in changes:
        change.make()
        done = "removed" if change.after is None else "changed" if change.before is not None else "wrote"
        click.echo(f"{done} {change.path}")
    if not changes:
        click.echo("Everything is in place.")


def has_systemd() -> bool:
    """Tell whether systemd runs this machine."""
    return Path("/run/systemd/system").is_dir()


def systemctl(*words: str) -> bool:
    """Tell systemd something; False, with its own words on stderr, where it does not go well."""
    return subprocess.run(["systemctl", *words], check=False).returncode == 0


def _validate(changes: Sequence[Change]) -> None:
    """Let Docker judge its new settings before they are in place (dockerd --validate, Docker 23 on)."""
    dockerd = shutil.which("dockerd")
    text = next((change.after for change in changes if change.path.name == ENGINE_FILE.name), None)
    if dockerd is None or text is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as trial:
        trial.write(text)
        trial.flush()
        judged = subprocess.run(
            [dockerd, "--validate", "--config-file", trial.name],
            capture_output=True,
            text=True,
            check=False,
            timeout=_VALIDATION_TIMEOUT_S,
        )
    said = judged.stderr.strip()
    if judged.returncode != 0 and "unknown flag" not in said:
        raise UsageError(f"Docker would not accept the new {ENGINE_FILE.name}: {said}", next_step="nothing was changed")


def _start(changes: Sequence[Change]) -> None:
    """Start the service and have Docker read its settings, or say how."""
    if not has_systemd():
        click.echo(
            "There is no systemd here: start `convgpu daemon` by what starts your services, and send dockerd SIGHUP."
        )
        return
    systemctl("daemon-reload")
    systemctl("enable", "--now", SERVICE)
    if any(change.path.name == ENGINE_FILE.name for change in changes):
        systemctl("reload", "docker.service")
