# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit export`: tables of a log."""

from __future__ import annotations

from pathlib import Path

import click

from convgpu.cli.audit_log import files_of, log_argument
from convgpu.cli.options import examples
from convgpu.cli.output import echo_table
from convgpu.cli.progress import Progress


@click.command(
    epilog=examples(
        "convgpu audit export -o run/",
        "convgpu audit export audit.jsonl --to sqlite -o run.sqlite",
        "convgpu audit export --to parquet --pseudonyms study.key -o for-the-paper/",
    )
)
@log_argument
@click.option(
    "--to",
    type=click.Choice(["csv", "sqlite", "parquet"]),
    default="csv",
    show_default=True,
    help="A folder of CSV files, one SQLite database, or a folder of Parquet files (needs convgpu[parquet]).",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder or file to make.")
@click.option(
    "--pseudonyms",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Replace names, images, commands, users and devices by pseudonyms made with this key, and leave texts out.",
)
def command(log: Path, to: str, output: Path, key_file: Path | None) -> None:
    """Make tidy tables of the audit log LOG: one row one observation, integers in bytes and nanoseconds.

    docs/reference/audit-tables.md says what each column is. Same key, same pseudonyms: several exports can be joined.
    """
    from convgpu.analysis.export import export
    from convgpu.analysis.pseudonyms import load
    from convgpu.analysis.selection import read_records
    from convgpu.audit.files import size_bytes

    files = files_of(log)
    pseudonyms = None if key_file is None else load(key_file)
    with Progress("exporting", size_bytes(files)) as progress:
        counts = export(read_records(files, progress.reach), output, to, pseudonyms)
    echo_table(("TABLE", "ROWS"), [(name, str(count)) for name, count in counts.items()])
