# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit schema`: the JSON Schema of records."""

from __future__ import annotations

import click

from convgpu.cli.options import examples


@click.command(epilog=examples("convgpu audit schema > audit-schema.json"))
def command() -> None:
    """Print the JSON Schema (draft 2020-12) of a record of the audit log, as docs/reference/audit-schema.json is."""
    from convgpu.audit.schema import schema_text

    click.echo(schema_text(), nl=False)
