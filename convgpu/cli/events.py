# SPDX-License-Identifier: Apache-2.0
"""`convgpu events`: what was decided and what happened, as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Final

import click

from convgpu.api import Client
from convgpu.cli.listing import Listing
from convgpu.cli.moments import EVENT_TYPE, MOMENT, stamp
from convgpu.cli.options import CONTAINER, examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, RecordStream
from convgpu.core.events import TOPICS, EventBatch, LogEvent, topic_of
from convgpu.paths import RunPaths

_LISTING: Final = Listing(LogEvent)
_USUAL: Final = 10
_ALL: Final = 1 << 30
_TIME: Final = slice(5, 19)
"""Month, day and time of an RFC 3339 time, to the second."""
_HEADING: Final = f"{'TIME (UTC)':14}  WHAT HAPPENED"


@click.command(
    short_help="Tell what was decided and what happened.",
    epilog=examples(
        "convgpu events",
        "convgpu events -f trainer",
        "convgpu events -f --type decision.denied --type finding",
        "convgpu events --since 10m --format jsonl | jq -r '[.ts, .sentence] | @tsv'",
    ),
)
@click.argument("container", type=CONTAINER, required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option(
    "--type",
    "types",
    type=EVENT_TYPE,
    multiple=True,
    help=f"Only these, may be given more than once: {', '.join(TOPICS)}, or a record type such as decision.denied.",
)
@click.option("--since", type=MOMENT, help="From then on: 10m (ago), or a time in RFC 3339, UTC if bare.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Begin with the last N.  [default: {_USUAL}; with --since: all since then]",
)
@format_option(_LISTING)
@run_dir_option
def command(
    container: str | None,
    follow: bool,
    types: tuple[str, ...],
    since: float | None,
    last: int | None,
    output_format: str,
    run_dir: RunPaths,
) -> None:
    """Tell, as sentences, what was decided and what else happened: all, or what concerns CONTAINER.

    These are the records of the audit log, shortened, without its figures. The daemon keeps the last thousand or so
    since it started; the log has all, and `convgpu audit query` finds what is older. Events that this command was too
    slow for are counted and said on stderr.
    """
    wanted = _wanted(types, since)
    with Client(run_dir.control_socket) as client, ExitStack() as stack:
        batches = client.events(
            container,
            last=_first(last, filtered=since is not None or any("." in each for each in types)),
            follow=follow,
            topics=dict.fromkeys(topic_of(each) if "." in each else each for each in types),
        )
        tell = _teller(output_format, stack)
        with suppress(KeyboardInterrupt):  # the way to end it
            _tell(batches, wanted, tell, last, since)


def _first(last: int | None, *, filtered: bool) -> int:
    """Return how many of the past to ask for: all, where this side chooses among them."""
    if filtered:
        return _ALL
    return _USUAL if last is None else last


def _wanted(types: Sequence[str], since: float | None) -> Callable[[LogEvent], bool]:
    begin = "" if since is None else stamp(since)

    def wants(event: LogEvent) -> bool:
        of_type = not types or event.type in types or topic_of(event.type) in types
        return of_type and event.ts[: len(begin)] >= begin

    return wants


def _tell(
    batches: Iterator[EventBatch],
    wanted: Callable[[LogEvent], bool],
    tell: Callable[[Sequence[LogEvent]], None],
    last: int | None,
    since: float | None,
) -> None:
    """Print batch after batch; the first is what happened before."""
    count = _USUAL if last is None and since is None else last
    for number, batch in enumerate(batches):
        events = [event for event in batch.events if wanted(event)]
        if number == 0 and count is not None:
            events = events[max(0, len(events) - count) :]
        tell(events)
        if batch.lost:
            click.echo(f"... {batch.lost} events lost here: they came faster than they were read", err=True)


def _teller(output_format: str, stack: ExitStack) -> Callable[[Sequence[LogEvent]], None]:
    """Return what prints events as they come; the stack ends what was begun."""
    if output_format != TABLE:
        return stack.enter_context(RecordStream(_LISTING, output_format)).write
    click.echo(_HEADING)
    return _echo


def _echo(events: Iterable[LogEvent]) -> None:
    for event in events:
        click.echo(f"{event.ts[_TIME].replace('T', ' ')}  {_printable(event.sentence)}")


def _printable(text: str) -> str:
    """Return a text without control characters: what a program calls itself may have some."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
