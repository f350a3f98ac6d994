# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit annotate`: a note into the log."""

from __future__ import annotations

import click

from convgpu.cli.options import CONTAINER, examples, run_dir_option
from convgpu.paths import RunPaths


@click.command(
    epilog=examples(
        'sudo convgpu audit annotate "begin of experiment 3, batch size 64"',
        'sudo convgpu audit annotate --container trainer "learning rate lowered"',
    )
)
@click.argument("text")
@click.option("--container", type=CONTAINER, metavar="NAME", help="The container that the note is about.")
@run_dir_option
def command(text: str, container: str | None, run_dir: RunPaths) -> None:
    """Put the note TEXT into the audit log, with who wrote it, by the daemon that writes the log.

    Prints the head of the log, which now contains the note: what to keep to prove later that it was there.
    """
    from convgpu.api import Client
    from convgpu.audit.chain import Head

    with Client(run_dir.control_socket) as client:
        noted = client.annotate(text, container)
    click.echo(f"record {noted.seq}, head {Head(noted.head_seq, noted.head_hash)}")
