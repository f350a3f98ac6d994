# SPDX-License-Identifier: Apache-2.0
"""`convgpu top`: the monitor."""

from __future__ import annotations

import time
from pathlib import Path

import click

from convgpu.api import Client
from convgpu.cli.options import examples, run_dir_option
from convgpu.cli.output import echo_json
from convgpu.core.status import Snapshot
from convgpu.errors import DaemonUnavailableError
from convgpu.paths import RunPaths

_SVG_WIDTH = 120
_SVG_EVENTS = 8


@click.command(
    epilog=examples(
        "convgpu top",
        "sudo convgpu top --edit",
        "convgpu top --once | tee status.txt",
        "convgpu top --json | jq '.containers[].name'",
        "convgpu top --jsonl --interval 10 >> usage.jsonl",
    )
)
@click.option("--once", is_flag=True, help="Print one table and end. Also when the output is not a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one snapshot as JSON and end.")
@click.option("--jsonl", "as_lines", is_flag=True, help="Print a snapshot a line at every interval, until Ctrl-C.")
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False), help="With --once: draw the screen into a file instead."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two refreshes.",
)
@click.option("--edit", is_flag=True, help="Let limits be changed from inside the monitor.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@run_dir_option
def command(
    once: bool,
    as_json: bool,
    as_lines: bool,
    svg: Path | None,
    interval: float,
    edit: bool,
    ascii_only: bool,
    run_dir: RunPaths,
) -> None:
    """Watch GPUs, containers, the queue and what happens. Press ? for the keys, q to leave.

    Nothing can be changed from the monitor unless it is started with --edit. NO_COLOR is respected. All keys and
    columns: docs/reference/monitor.md.
    """
    if as_json and as_lines:
        raise click.UsageError("--json prints one snapshot, --jsonl one a line: give one of them")
    if edit and (once or as_json or as_lines):
        raise click.UsageError("--edit is for the live screen: leave out --once, --json and --jsonl")
    if svg is not None and not once:
        raise click.UsageError("--svg draws one screen: give --once too")
    if as_json:
        echo_json(_snapshot(run_dir))
    elif as_lines:
        _print_lines(run_dir, interval, once=once)
    elif svg is not None:
        _draw(run_dir, svg)
    else:
        from convgpu.tui.monitor import is_interactive, print_once, watch

        if once or not is_interactive():
            print_once(_snapshot(run_dir), ascii_only=ascii_only)
        else:
            watch(run_dir.control_socket, interval, edit=edit, ascii_only=ascii_only)


def _snapshot(run_dir: RunPaths) -> Snapshot:
    with Client(run_dir.control_socket) as client:
        return client.snapshot()


def _draw(run_dir: RunPaths, file: Path) -> None:
    """Draw the screen, with the last events, into a file."""
    from convgpu.tui.export import export_svg
    from convgpu.tui.view import Scene

    with Client(run_dir.control_socket) as client:
        snapshot = client.snapshot()
        batches = client.events(last=_SVG_EVENTS, follow=False, grants=False)
        events = [event for batch in batches for event in batch.events]
    file.write_text(export_svg(snapshot, width=_SVG_WIDTH, scene=Scene(events=events)), encoding="utf-8")


def _print_lines(run_dir: RunPaths, interval_s: float, *, once: bool) -> None:
    """Print a snapshot a line. A daemon that goes away is asked for again, and stderr says so once."""
    import msgspec

    click.echo(msgspec.json.encode(_snapshot(run_dir)))
    away = False
    try:
        while not once:
            time.sleep(interval_s)
            try:
                line = msgspec.json.encode(_snapshot(run_dir))
            except DaemonUnavailableError as error:
                if not away:
                    click.echo(f"... {error.message}; trying again", err=True)
                away = True
                continue
            away = False
            click.echo(line)
    except KeyboardInterrupt:
        pass  # the way to end it
