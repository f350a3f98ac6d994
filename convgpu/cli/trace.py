# SPDX-License-Identifier: Apache-2.0
"""`convgpu trace`: allocations as they happen."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import click

from convgpu.api import Client
from convgpu.cli.listing import Listing
from convgpu.cli.options import CONTAINER, SIZE, ParsedType, examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, RecordStream, echo_records
from convgpu.core.durations import parse_duration
from convgpu.core.histogram import TraceFigures, TraceSummary
from convgpu.core.trace import KINDS, TraceBatch, TraceEvent
from convgpu.paths import RunPaths
from convgpu.tui.trace import HEADING, event_line, stack_lines, summary_lines

_DURATION = ParsedType("duration", parse_duration)
_EVENTS = Listing(TraceEvent)
_SUMMARY = Listing(TraceFigures, parts="calls", single=True, of="with --summary")


@click.command(
    short_help="Watch allocations as they happen.",
    epilog=examples(
        "convgpu trace",
        "convgpu trace trainer --min-size 64MiB --kind alloc",
        "convgpu trace --summary --duration 30s",
        "convgpu trace trainer --stacks --min-size 1GiB",
        "convgpu trace --format jsonl | jq 'select(.latency_ns > 1000000)'",
    ),
)
@click.argument("container", type=CONTAINER, required=False)
@click.option("--min-size", "min_bytes", type=SIZE, default=0, help="Only what is at least this large.")
@click.option("--kind", type=click.Choice(KINDS), help="Only memory taken, given back, or refused.")
@click.option("--summary", is_flag=True, help="Print histograms at the end instead of lines.")
@click.option("--stacks", is_flag=True, help="Show below each event where it was called from.")
@click.option("--duration", "duration_ns", type=_DURATION, help="End after this time, such as 30s. Default: at Ctrl-C.")
@format_option(_EVENTS, _SUMMARY)
@run_dir_option
def command(
    container: str | None,
    min_bytes: int,
    kind: str | None,
    summary: bool,
    stacks: bool,
    duration_ns: int | None,
    output_format: str,
    run_dir: RunPaths,
) -> None:
    """Show what takes GPU memory and gives it back, as the eBPF witness sees it: of all, or only of CONTAINER.

    A call may be seen up to three times: cudaMalloc at the runtime, the libcuda call below it, and RM_ALLOC at the
    boundary, where the driver takes the memory. SIZE is what was asked for; at the boundary, what the driver made of
    it. TOOK is how long the call took. Events that were lost are counted and said on stderr; `convgpu ps` is exact all
    the same.

    Stacks reach as far as a program and its libraries keep frame pointers, and cost each event a microsecond or so
    while they are asked for. A function whose name the file does not say is shown as file and offset; of a process that
    ended at once there are addresses only.
    """
    if summary and stacks:
        raise click.UsageError("--stacks shows single events, --summary none: leave one of them out")
    shown = TraceSummary()
    with Client(run_dir.control_socket) as client, contextlib.ExitStack() as stack:
        batches = client.trace(container, min_bytes=min_bytes, kind=kind, stacks=stacks)
        tell = shown.add if summary else _teller(output_format, stack)
        try:
            for batch in _until(batches, duration_ns):
                tell(batch.events)
                shown.lost += batch.lost + batch.witness_lost
                _say_losses(batch)
        except KeyboardInterrupt:
            pass  # the way to end it
    if not summary:
        return
    if output_format == TABLE:
        click.echo("\n".join(summary_lines(shown)))
    else:
        echo_records(_SUMMARY, [shown.figures()], output_format)


def _until(batches: Iterator[TraceBatch], duration_ns: int | None) -> Iterator[TraceBatch]:
    """Pass batches on until the time is over; there is one each second at least."""
    end_ns = None if duration_ns is None else time.monotonic_ns() + duration_ns
    for batch in batches:
        yield batch
        if end_ns is not None and time.monotonic_ns() >= end_ns:
            return


def _teller(output_format: str, stack: contextlib.ExitStack) -> Callable[[Sequence[TraceEvent]], None]:
    """Return what prints events as they come; the stack ends what was begun."""
    if output_format != TABLE:
        return stack.enter_context(RecordStream(_EVENTS, output_format)).write
    click.echo(HEADING)
    return _echo_events


def _echo_events(events: Iterable[TraceEvent]) -> None:
    for event in events:
        click.echo(event_line(event))
        if event.stack is not None:
            click.echo("\n".join(stack_lines(event.stack)))


def _say_losses(batch: TraceBatch) -> None:
    if batch.lost:
        click.echo(f"... {batch.lost} events lost: they came faster than they were read", err=True)
    if batch.witness_lost:
        click.echo(f"... {batch.witness_lost} events lost in the kernel: its ring was full", err=True)
    if batch.stacks_lost:
        click.echo(f"... {batch.stacks_lost} stacks lost in the kernel: their ring was full", err=True)
