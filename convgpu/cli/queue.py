# SPDX-License-Identifier: Apache-2.0
"""`convgpu queue`: who waits, for what, why, and what would let it go on."""

from __future__ import annotations

import textwrap
from typing import Final

import click

from convgpu.api import Client
from convgpu.cli.listing import Listing
from convgpu.cli.options import CONTAINER, examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, echo_records, table
from convgpu.core.status import Snapshot, WaitingStatus
from convgpu.core.units import format_size
from convgpu.paths import RunPaths
from convgpu.tui.figures import duration

_HEADINGS: Final = ("POS", "GPU", "CONTAINER", "FOR", "WANTS", "LACKS", "WAITED", "LEFT", "PASSED")
_WIDTH: Final = 79
_INDENT: Final = "    "
_LISTING: Final = Listing(WaitingStatus)


@click.command(
    short_help="Show who waits, why, and what would let it go on.",
    epilog=examples("convgpu queue", "convgpu queue beta", "convgpu queue --format json | jq '.[].goes_on'"),
)
@click.argument("container", type=CONTAINER, required=False)
@format_option(_LISTING)
@run_dir_option
def command(container: str | None, output_format: str, run_dir: RunPaths) -> None:
    """Show who waits on each GPU, the next one first: all, or only CONTAINER.

    LACKS is what its container would have to be assigned more, LEFT the time until it is denied (-: it waits without
    end), PASSED how often others went before it. Containers that wait for their start come last, with `start` under
    FOR. Below each of the first: what gives it its place, and what would let it go on.
    """
    with Client(run_dir.control_socket) as client:
        waiting = client.queue(container)
        if output_format != TABLE:
            echo_records(_LISTING, waiting, output_format)
            return
        snapshot = client.snapshot()
    if not waiting:
        click.echo("Nobody waits." if container is None else f"{container} does not wait.")
        return
    heading, *lines = table(_HEADINGS, [_cells(each, snapshot) for each in waiting]).splitlines()
    click.echo(heading)
    for each, line in zip(waiting, lines, strict=True):
        click.echo(line)
        for label, text in (("place", each.place), ("goes on", each.goes_on)):
            if text:
                click.echo(textwrap.indent(textwrap.fill(f"{label}: {text}", _WIDTH - len(_INDENT)), _INDENT))
    if snapshot.simulated:
        click.echo("GPUs are simulated.", err=True)


def _cells(each: WaitingStatus, snapshot: Snapshot) -> tuple[str, ...]:
    index = next((str(gpu.index) for gpu in snapshot.gpus if gpu.uuid == each.uuid), "N/A")
    who = "start" if each.kind == "start" else f"{each.comm or 'process'}[{each.pid}]"
    left = "-" if each.left_ms is None else duration(each.left_ms)
    return (
        str(each.position),
        index,
        each.container_name,
        who,
        format_size(each.size_bytes),
        format_size(each.need_bytes),
        duration(each.waited_ms),
        left,
        str(each.passed),
    )
