# SPDX-License-Identifier: Apache-2.0
"""`convgpu top`: the monitor."""

from __future__ import annotations

from pathlib import Path

import click

from convgpu.api import Client
from convgpu.cli.options import examples, run_dir_option
from convgpu.cli.output import echo_json
from convgpu.core.status import Snapshot
from convgpu.paths import RunPaths

_SVG_WIDTH = 120


@click.command(epilog=examples("convgpu top", "convgpu top --once | tee status.txt", "convgpu top --json"))
@click.option("--once", is_flag=True, help="Print one table and end. Also when the output is not a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one snapshot as JSON and end.")
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
@run_dir_option
def command(once: bool, as_json: bool, svg: Path | None, interval: float, run_dir: RunPaths) -> None:
    """Watch GPUs, containers and the queue. Press q to leave."""
    if svg is not None and not once:
        raise click.UsageError("--svg draws one screen: give --once too")
    if as_json:
        echo_json(_snapshot(run_dir))
    elif svg is not None:
        from convgpu.tui.export import export_svg

        svg.write_text(export_svg(_snapshot(run_dir), width=_SVG_WIDTH))
    else:
        from convgpu.tui.monitor import is_interactive, print_once, watch

        if once or not is_interactive():
            print_once(_snapshot(run_dir))
        else:
            watch(run_dir.control_socket, interval)


def _snapshot(run_dir: RunPaths) -> Snapshot:
    with Client(run_dir.control_socket) as client:
        return client.snapshot()
