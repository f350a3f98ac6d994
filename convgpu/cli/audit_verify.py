# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit verify`: does a log hold together?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convgpu.cli.audit_log import HEAD, files_of, log_argument
from convgpu.cli.options import examples, format_option
from convgpu.cli.output import echo_json
from convgpu.cli.progress import Progress
from convgpu.errors import AuditError

if TYPE_CHECKING:
    from convgpu.audit.chain import Head
    from convgpu.audit.verify import VerifyReport


@click.command(
    epilog=examples(
        "convgpu audit verify",
        "convgpu audit verify --head 4711:9f3a...",
        "convgpu audit verify copy/ --key audit.key.pub",
        "convgpu audit verify audit.000000004711.jsonl --partial",
    )
)
@log_argument
@click.option(
    "--head",
    "--expect-head",
    "head",
    type=HEAD,
    metavar="SEQ:HASH",
    help="What `convgpu audit head` said earlier: the log must still contain it.",
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A public key: there must be seals, and all must be signed with it.",
)
@click.option("--partial", is_flag=True, help="The beginning of the log is not here.")
@format_option
def command(log: Path, head: Head | str | None, key_file: Path | None, partial: bool, output_format: str) -> None:
    """Check that nothing in the audit log LOG was changed, removed or put in.

    The chain cannot tell that the last records were cut off, or all of it written anew: give --head, or --key, for
    that. A last line that is cut short is the trace of a crash, not of tampering. Status 7: it does not verify.
    """
    from convgpu.audit.files import size_bytes
    from convgpu.audit.verify import verify_files

    files = files_of(log)
    with Progress("verifying", size_bytes(files)) as progress:
        report = verify_files(files, head, key_file=key_file, partial=partial, on_bytes=progress.reach)
    if output_format == "json":
        echo_json(report)
    else:
        _say(log, report)
    if not report.ok:
        count = report.problem_count
        raise AuditError(
            f"{log} does not verify: {count} problem{'' if count == 1 else 's'}",
            next_step="compare it with a copy kept elsewhere",
        )
    if output_format == "table":
        click.echo("The log verifies.")


def _say(log: Path, report: VerifyReport) -> None:
    span = f", {report.first_seq} to {report.last_seq}" if report.records else ""
    files = f", in {report.files} files" if report.files > 1 else ""
    click.echo(f"{log}: {report.records} records{span}{files}")
    if report.records:
        click.echo(f"from {report.first_ts} to {report.last_ts}")
        click.echo(f"head {report.head}")
    if report.seals:
        open_records = report.head.seq - report.sealed_seq
        signed = "all signed" if report.signed_seals == report.seals else f"{report.signed_seals} signed"
        if not report.signed_seals:
            signed = "not signed"
        click.echo(f"sealed up to record {report.sealed_seq}, {open_records} after it ({report.seals} seals, {signed})")
    if report.torn_bytes:
        click.echo(f"The last line is cut short ({report.torn_bytes} bytes): its writer was stopped in the middle.")
    for problem in report.problems:
        click.echo(f"{problem.file + ', ' if problem.file else ''}line {problem.line}: {problem.message}", err=True)
    more = report.problem_count - len(report.problems)
    if more:
        click.echo(f"... and {more} more", err=True)
