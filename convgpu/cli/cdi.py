# SPDX-License-Identifier: Apache-2.0
"""`convgpu cdi`: ConvGPU as a CDI device."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import click

from convgpu.cli.install import settings
from convgpu.cli.options import examples
from convgpu.daemon.publishing import publish
from convgpu.native import LIBRARY_NAME, native_dir
from convgpu.oci import targets
from convgpu.oci.cdi import DEVICE, KIND, CdiFiles, specification, text_of
from convgpu.oci.files import replace_file
from convgpu.oci.launcher import PROGRAM_NAME, launcher_text
from convgpu.oci.preload import preload_for_content


@click.group(epilog=examples("sudo convgpu cdi generate --output /etc/cdi/convgpu.json"))
def command() -> None:
    """Make ConvGPU a CDI device, which engines give to a container beside the GPU's own."""


@command.command(
    epilog=examples(
        "sudo convgpu cdi generate --output /etc/cdi/convgpu.json",
        f"podman run --device nvidia.com/gpu=all --device {KIND}={DEVICE} --annotation convgpu.limit=4GiB my/image",
    )
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: standard output]")
def generate(output: Path | None) -> None:
    """Write the CDI specification, and the files that it names into the daemon's state folder.

    Podman, containerd and CRI-O read /etc/cdi and /var/run/cdi; so does Docker from 28.3 on.
    """
    config = settings()
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.paths.client_dir.mkdir(mode=0o755, exist_ok=True)
    hook = config.state_dir / PROGRAM_NAME
    replace_file(hook, launcher_text(config.state_dir), 0o755)
    publish(config)
    files = CdiFiles(
        library=native_dir() / LIBRARY_NAME,
        preload=preload_for_content(None, config.paths.preload_dir, PurePosixPath(targets.LIBRARY_ASIDE)),
        client_dir=config.paths.client_dir,
        hook=hook,
    )
    text = text_of(specification(files))
    if output is None:
        click.echo(text, nl=False)
    else:
        replace_file(output, text)
        click.echo(f"wrote {output}: --device {KIND}={DEVICE}")
