# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit query`: find records."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from convgpu.cli.audit_log import files_of, log_argument
from convgpu.cli.listing import Listing
from convgpu.cli.moments import EVENT_TYPE, MOMENT, stamp
from convgpu.cli.options import CONTAINER, examples, format_option
from convgpu.cli.output import TABLE, RecordStream
from convgpu.cli.progress import Progress
from convgpu.core.events import TOPICS, LogEvent

RAW: Final = "raw"
_LISTING: Final = Listing(LogEvent)
_TIME: Final = slice(5, 23)
"""Month, day and time to the millisecond, of an RFC 3339 time."""
_Found = tuple[bytes, dict[str, Any]]


@click.command(
    epilog=examples(
        "convgpu audit query --since 1h --type decision.denied",
        "convgpu audit query --container trainer --gpu 0 --last 20",
        "convgpu audit query --process python3 --type decision --format csv > decisions.csv",
        "convgpu audit query --since 2026-11-28T09:00Z --until 2026-11-28T10:00Z --format raw | jq .",
    ),
)
@log_argument
@click.option("--since", type=MOMENT, help="From then on: 10m (ago), or a time in RFC 3339, UTC if bare.")
@click.option("--until", type=MOMENT, help="Before then.")
@click.option(
    "--type",
    "types",
    type=EVENT_TYPE,
    multiple=True,
    help=f"Only these, may be given more than once: {', '.join(TOPICS)}, or a record type such as decision.denied.",
)
@click.option("--container", type=CONTAINER, metavar="NAME", help="By name, id or the beginning of the id.")
@click.option("--gpu", metavar="INDEX|UUID", help="About one GPU.")
@click.option("--process", metavar="PID|COMM", help="About one process, or all of one name.")
@click.option("--reason", metavar="WORD", help="With this reason, such as limit or wait_timeout.")
@click.option("--outcome", metavar="WORD", help="With this outcome, such as fail.")
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="Only the last N of them.")
@format_option(_LISTING, more=(RAW,))
def command(
    log: Path,
    since: float | None,
    until: float | None,
    types: tuple[str, ...],
    container: str | None,
    gpu: str | None,
    process: str | None,
    reason: str | None,
    outcome: str | None,
    last: int | None,
    output_format: str,
) -> None:
    """Find records in the audit log LOG and tell them as sentences, oldest first.

    The formats for programs have the records shortened, as `convgpu events` tells them; raw has the lines of the log as
    they are, with all figures. Hashes are not checked here: that is what verify is for.
    """
    from convgpu.analysis.selection import Selection, read_selected
    from convgpu.audit.files import size_bytes

    selection = Selection(
        since=None if since is None else stamp(since),
        until=None if until is None else stamp(until),
        types=types,
        container=container,
        gpu=gpu,
        process=process,
        reason=reason,
        outcome=outcome,
    )
    files = files_of(log)
    if last is None and sys.stdout.isatty():  # what is found shows how far it has come
        _tell(read_selected(files, selection), output_format)
        return
    with Progress("searching", size_bytes(files)) as progress:
        found: Iterable[_Found] = read_selected(files, selection, progress.reach)
        if last is None:
            _tell(found, output_format)
        else:
            found = deque(found, maxlen=last)
    if last is not None:
        _tell(found, output_format)


def _tell(found: Iterable[_Found], output_format: str) -> None:
    from convgpu.analysis.selection import log_event

    if output_format == RAW:
        for line, _ in found:
            sys.stdout.buffer.write(line)
        return
    if output_format == TABLE:
        click.echo(f"{'TIME (UTC)':18}  {'RECORD':>8}  WHAT HAPPENED")
        for _, record in found:
            time = record["ts"][_TIME].replace("T", " ")
            click.echo(f"{time}  {record['seq']:>8}  {one_line(record['msg'])}")
        return
    with RecordStream(_LISTING, output_format) as stream:
        stream.write(log_event(record) for _, record in found)


def one_line(text: str) -> str:
    """Return a text that cannot move a terminal's cursor: what is no character to be seen is a space."""
    return "".join(character if character.isprintable() else " " for character in text)
