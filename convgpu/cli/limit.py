# SPDX-License-Identifier: Apache-2.0
"""`convgpu limit`: show and change limits while containers run."""

from __future__ import annotations

import click

from convgpu.api import Client, LimitChange, LimitInfo
from convgpu.cli.listing import Listing
from convgpu.cli.options import CONTAINER, GUARANTEE, SIZE, examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, echo_records, echo_table
from convgpu.core.units import format_size
from convgpu.paths import RunPaths

_ONE = Listing(LimitInfo, parts="devices", single=True)
_ALL = Listing(LimitInfo, parts="devices")


@click.group(epilog=examples("convgpu limit ls", "convgpu limit set gamma 3GiB"))
def command() -> None:
    """Show and change limits while containers run. A container is named by name, id or a prefix of its id."""


@command.command("set", epilog=examples("convgpu limit set gamma 3GiB", "convgpu limit set 4f1c 8G --guarantee 2G"))
@click.argument("container", type=CONTAINER)
@click.argument("size", type=SIZE)
@click.option(
    "--guarantee", type=GUARANTEE, metavar="SIZE", help="What is set aside for it; else it follows the limit."
)
@run_dir_option
def set_limit(container: str, size: int, guarantee: int | None, run_dir: RunPaths) -> None:
    """Set CONTAINER's limit to SIZE on each of its devices.

    Raised: what waits may go on at once. Lowered below what the container holds: nothing is taken away, it gets
    nothing more until it is under.
    """
    with Client(run_dir.control_socket) as client:
        change = client.limit_set(container, size, guarantee)
    _echo_change(change)


@command.command(
    "rm", short_help="Go back to the limit of the label, or the default.", epilog=examples("convgpu limit rm gamma")
)
@click.argument("container", type=CONTAINER)
@run_dir_option
def remove_limit(container: str, run_dir: RunPaths) -> None:
    """Go back from a limit set by command to that of CONTAINER's label, or to the default."""
    with Client(run_dir.control_socket) as client:
        change = client.limit_remove(container)
    _echo_change(change)


@command.command("get", epilog=examples("convgpu limit get gamma", "convgpu limit get gamma --format json"))
@click.argument("container", type=CONTAINER)
@format_option(_ONE)
@run_dir_option
def get_limit(container: str, output_format: str, run_dir: RunPaths) -> None:
    """Show CONTAINER's limit, its guarantee and where they come from."""
    with Client(run_dir.control_socket) as client:
        info = client.limit_get(container)
    if output_format != TABLE:
        echo_records(_ONE, [info], output_format)
    else:
        _echo_limits([info])


@command.command("ls", epilog=examples("convgpu limit ls", "convgpu limit ls --format json"))
@format_option(_ALL)
@run_dir_option
def list_limits(output_format: str, run_dir: RunPaths) -> None:
    """Show the limits of all containers."""
    with Client(run_dir.control_socket) as client:
        limits = client.limit_list()
    if output_format != TABLE:
        echo_records(_ALL, limits, output_format)
    else:
        _echo_limits(limits)


def _echo_limits(limits: list[LimitInfo] | tuple[LimitInfo, ...]) -> None:
    echo_table(
        ("CONTAINER ID", "NAME", "GPU", "LIMIT", "GUARANTEE", "SOURCE"),
        [
            (info.container_id[:12], info.name, gpus, format_size(limit), format_size(guarantee), info.source)
            for info in limits
            for gpus, limit, guarantee in _by_device(info)
        ],
    )


def _by_device(info: LimitInfo) -> list[tuple[str, int, int]]:
    """Return devices with their limit and guarantee; those with the same two together."""
    alike: dict[tuple[int, int], list[str]] = {}
    for device in info.devices:
        alike.setdefault((device.limit_bytes, device.guarantee_bytes), []).append(str(device.index))
    return [(",".join(gpus), limit, guarantee) for (limit, guarantee), gpus in alike.items()] or [
        ("N/A", info.limit_bytes, info.guarantee_bytes)
    ]


def _echo_change(change: LimitChange) -> None:
    old, new = format_size(change.old_limit_bytes), format_size(change.new_limit_bytes)
    click.echo(f"{change.name}: limit {old} -> {new}")
    if change.used_bytes > change.new_limit_bytes:
        click.echo(
            f"It holds {format_size(change.used_bytes)}: it keeps that, and gets nothing more until it is under."
        )
