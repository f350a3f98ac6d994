# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit keygen`: keys for seals, and for pseudonyms."""

from __future__ import annotations

from pathlib import Path

import click

from convgpu.cli.options import examples


@click.command(
    epilog=examples(
        "sudo convgpu audit keygen /etc/convgpu/audit.key",
        "convgpu audit keygen --pseudonyms study.key",
    )
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pseudonyms", is_flag=True, help="A key for `convgpu audit export --pseudonyms`.")
def command(file: Path, pseudonyms: bool) -> None:
    """Make a key in FILE, which only its owner can read. A file that is there is not overwritten.

    Without an option it is an Ed25519 key: the setting audit_key names it, and the daemon signs its seals with it. The
    public key is written beside it, as FILE.pub: keep that elsewhere, and give it to those who verify.
    """
    if pseudonyms:
        from convgpu.analysis.pseudonyms import generate as generate_secret

        generate_secret(file)
        click.echo(f"{file}: who has it can tell which name a pseudonym stands for. Do not publish it.")
        return
    from convgpu.audit.keys import generate

    public, key_id = generate(file)
    click.echo(f"{file}: private key, for the setting audit_key")
    click.echo(f"{public}: public key {key_id}, for `convgpu audit verify --key`")
