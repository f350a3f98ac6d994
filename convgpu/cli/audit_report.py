# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit report`: a log as one page."""

from __future__ import annotations

from pathlib import Path

import click

from convgpu.cli.audit_log import files_of, log_argument, verified
from convgpu.cli.options import examples
from convgpu.cli.progress import Progress
from convgpu.errors import AuditError


@click.command(
    epilog=examples(
        "convgpu audit report -o report.html",
        'convgpu audit report audit.jsonl.gz -o run-3.html --title "Run 3, batch size 64"',
        "convgpu audit report --pseudonyms study.key -o for-others.html",
    )
)
@log_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The page to make."
)
@click.option("--title", metavar="TEXT", help="Its title.  [default: the name of the log]")
@click.option(
    "--pseudonyms",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Replace names by pseudonyms made with this key, and leave texts out, as export does.",
)
def command(log: Path, output: Path, title: str | None, key_file: Path | None) -> None:
    """Make one page of the audit log LOG that needs nothing else: figures, pictures, and whether the log verifies.

    Memory against limit of each container over time, who waited, decisions, denials, fairness, losses, findings, notes.
    It is for any browser, light or dark, and prints. Needs matplotlib: pip install 'convgpu[plot]'.
    """
    from convgpu.analysis import charts
    from convgpu.analysis.export import rows_of
    from convgpu.analysis.page import page
    from convgpu.analysis.pseudonyms import load
    from convgpu.analysis.selection import read_records
    from convgpu.analysis.study import study
    from convgpu.audit.files import size_bytes

    charts.require()
    files = files_of(log)
    pseudonyms = None if key_file is None else load(key_file)
    report = verified(log)
    with Progress("reading", size_bytes(files)) as progress:
        found = study(rows_of(read_records(files, progress.reach), pseudonyms))
    html = page(found, report, title or f"Audit log {log.name}")
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise AuditError(f"cannot write {output}: {error.strerror}") from error
    click.echo(f"{output}: {found.records} records, {len(found.containers)} containers")
