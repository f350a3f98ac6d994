# SPDX-License-Identifier: Apache-2.0
"""`convgpu sim`: start, stop and use a simulated GPU."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from convgpu.cli.listing import Listing
from convgpu.cli.options import SIZE, examples, format_option
from convgpu.cli.output import TABLE, echo_records, echo_table
from convgpu.core.units import format_size
from convgpu.sources import simgpu

_F = TypeVar("_F", bound=Callable[..., Any])
_MOST_GPUS = 16
_LISTING = Listing(simgpu.SimStatus, parts="gpus", single=True)


def _folder_option(function: _F) -> _F:
    return click.option(
        "--sim-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=simgpu.DEFAULT_RUN_DIR,
        show_default=True,
        help="The simulated GPU's folder.",
    )(function)


@click.group(
    epilog=examples(
        "sudo convgpu sim up --memory 10GiB",
        "sudo convgpu daemon --simulated",
        "sudo convgpu run --limit 2GiB -- $(convgpu sim docker-args) my/image",
    )
)
def command() -> None:
    """Start, stop and use a simulated GPU: no hardware, but real system calls, containers, limits and probes."""


@command.command(epilog=examples("sudo convgpu sim up", "sudo convgpu sim up --memory 24GiB --gpus 2"))
@click.option(
    "--memory", type=SIZE, default=simgpu.DEFAULT_MEMORY_BYTES, show_default="10GiB", help="Memory of each GPU."
)
@click.option(
    "--context", type=SIZE, default=simgpu.DEFAULT_CONTEXT_BYTES, show_default="512MiB", help="What a context costs."
)
@click.option(
    "--gpus", type=click.IntRange(1, _MOST_GPUS), default=1, show_default=True, metavar="N", help="How many GPUs."
)
@_folder_option
def up(memory: int, context: int, gpus: int, sim_dir: Path) -> None:
    """Start the simulated GPU. One that runs with the same parameters already is left as it is."""
    _echo_status(simgpu.up(sim_dir, memory, context, gpus))


@command.command(epilog=examples("sudo convgpu sim down"))
@_folder_option
def down(sim_dir: Path) -> None:
    """Stop the simulated GPU, and clear away what a dead one left. Nothing to stop is no error."""
    _echo_status(simgpu.down(sim_dir))


@command.command(epilog=examples("convgpu sim status", "convgpu sim status --format json"))
@format_option(_LISTING)
@_folder_option
@click.pass_context
def status(ctx: click.Context, output_format: str, sim_dir: Path) -> None:
    """Show the simulated GPU. The exit status is 1 if it does not run."""
    current = simgpu.status(sim_dir)
    if output_format != TABLE:
        echo_records(_LISTING, [current], output_format)
    else:
        _echo_status(current)
    ctx.exit(0 if current.running else 1)


@command.command("docker-args", epilog=examples("docker run $(convgpu sim docker-args) my/image"))
@_folder_option
def docker_arguments(sim_dir: Path) -> None:
    """Print, on one line, the arguments of `docker run` that give the simulated GPU to a container."""
    click.echo(shlex.join(simgpu.docker_arguments(sim_dir)))


def _echo_status(current: simgpu.SimStatus) -> None:
    if not current.running:
        click.echo(f"No simulated GPU runs at {current.device_dir}.")
        return
    click.echo(f"Simulated GPU at {current.device_dir}, pid {current.pid}")
    echo_table(
        ("GPU", "NAME", "UUID", "USED", "TOTAL", "CONTEXT", "PROCESSES"),
        [
            (
                str(gpu.index),
                gpu.name,
                gpu.uuid,
                format_size(gpu.used_bytes),
                format_size(gpu.total_bytes),
                format_size(gpu.context_bytes),
                str(len(gpu.process_bytes)),
            )
            for gpu in current.gpus
        ],
    )
