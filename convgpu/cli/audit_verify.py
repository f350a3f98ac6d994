# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit verify`: does a log hold together?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from convgpu.cli.audit_log import HEAD, log_argument, verified
from convgpu.cli.listing import Listing
from convgpu.cli.options import examples, format_option
from convgpu.cli.output import TABLE, echo_records
from convgpu.errors import AuditError

if TYPE_CHECKING:
    from convgpu.audit.chain import Head
    from convgpu.audit.verify import VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFound:
    """Something that is wrong with a line of a log.

    Attributes:
        file: Name of the file, where the log has several.
        line: From 1.
        kind: broken, hash, chain, seq, version, seal or head; docs/audit.md says what each means.
        message: The same for a person.
    """

    file: str
    line: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a log holds together.

    Attributes:
        log: Its path.
        ok: No problem was found. A torn last line is none.
        files: How many files it has.
        records: Records whose hash fits.
        first_seq: Serial number of the first of them.
        last_seq: Of the last.
        first_ts: Time of the first.
        last_ts: Of the last.
        head: What to note elsewhere, SEQ:HASH.
        seals: Seals in it.
        signed_seals: Those with a signature.
        sealed_seq: The last of them; 0: nothing is sealed.
        torn_bytes: Length of a last line that is cut short; 0: there is none.
        problem_count: All problems.
        problems: The first hundred of them.
    """

    log: str
    ok: bool
    files: int
    records: int
    first_seq: int | None
    last_seq: int | None
    first_ts: str | None
    last_ts: str | None
    head: str
    seals: int
    signed_seals: int
    sealed_seq: int
    torn_bytes: int
    problem_count: int
    problems: tuple[ProblemFound, ...]


_LISTING: Final = Listing(Verdict, parts="problems", single=True)


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
@format_option(_LISTING)
def command(log: Path, head: Head | str | None, key_file: Path | None, partial: bool, output_format: str) -> None:
    """Check that nothing in the audit log LOG was changed, removed or put in.

    The chain cannot tell that the last records were cut off, or all of it written anew: give --head, or --key, for
    that. A last line that is cut short is the trace of a crash, not of tampering. Status 7: it does not verify.
    """
    report = verified(log, head, key_file=key_file, partial=partial)
    if output_format == TABLE:
        _say(log, report)
    else:
        echo_records(_LISTING, [_verdict(log, report)], output_format)
    if not report.ok:
        count = report.problem_count
        raise AuditError(
            f"{log} does not verify: {count} problem{'' if count == 1 else 's'}",
            next_step="compare it with a copy kept elsewhere",
        )
    if output_format == TABLE:
        click.echo("The log verifies.")


def _verdict(log: Path, report: VerifyReport) -> Verdict:
    return Verdict(
        log=str(log),
        ok=report.ok,
        files=report.files,
        records=report.records,
        first_seq=report.first_seq,
        last_seq=report.last_seq,
        first_ts=report.first_ts,
        last_ts=report.last_ts,
        head=str(report.head),
        seals=report.seals,
        signed_seals=report.signed_seals,
        sealed_seq=report.sealed_seq,
        torn_bytes=report.torn_bytes,
        problem_count=report.problem_count,
        problems=tuple(
            ProblemFound(file=each.file, line=each.line, kind=str(each.kind), message=each.message)
            for each in report.problems
        ),
    )


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
