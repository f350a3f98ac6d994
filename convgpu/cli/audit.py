# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit`: check the log."""

from __future__ import annotations

from pathlib import Path

import click

from convgpu.cli.options import examples
from convgpu.errors import AuditError
from convgpu.paths import AUDIT_LOG_NAME, DEFAULT_LOG_DIR


@click.group(epilog=examples("convgpu audit verify"))
def command() -> None:
    """Check the audit log. No daemon is needed."""


@command.command(
    epilog=examples("convgpu audit verify", "convgpu audit verify copy.jsonl --expect-head 9f3a...(64 digits)")
)
@click.argument("path", type=click.Path(path_type=Path), default=DEFAULT_LOG_DIR / AUDIT_LOG_NAME)
@click.option("--expect-head", metavar="HASH", help="A hash noted elsewhere earlier: the log must still contain it.")
def verify(path: Path, expect_head: str | None) -> None:
    """Check that nothing in the log at PATH was changed, removed or put in (default: the daemon's log).

    The chain cannot tell that the last records were cut off, or all of it written anew: give --expect-head for that.
    A last line that is cut short is the trace of a crash, not of tampering.
    """
    from convgpu.audit.verify import verify as verify_log

    report = verify_log(path, expect_head)
    span = f", {report.first_seq} to {report.last_seq}" if report.records else ""
    click.echo(f"{path}: {report.records} records{span}, head {report.head.hash}")
    if report.torn_bytes:
        click.echo(f"The last line is cut short ({report.torn_bytes} bytes): its writer was stopped in the middle.")
    for problem in report.problems:
        click.echo(f"line {problem.line}: {problem.message}", err=True)
    if not report.ok:
        count = report.problem_count
        raise AuditError(
            f"{path} does not verify: {count} problem{'' if count == 1 else 's'}",
            next_step="compare it with a copy kept elsewhere",
        )
    click.echo("The log verifies.")
