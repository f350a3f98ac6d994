# SPDX-License-Identifier: Apache-2.0
"""`convgpu group`: quotas that several containers share, shown and changed while they run."""

from __future__ import annotations

from collections.abc import Iterable

import click

from convgpu.api import Client, GroupChange
from convgpu.cli.listing import Listing
from convgpu.cli.options import GROUP, SIZE_OR_NONE, examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, echo_records, echo_table
from convgpu.core.identity import GroupName
from convgpu.core.status import GroupStatus
from convgpu.core.units import format_size
from convgpu.paths import RunPaths

_ONE = Listing(GroupStatus, parts="devices", single=True)
_ALL = Listing(GroupStatus, parts="devices")
_HEADINGS = ("GROUP", "GPU", "LIMIT", "ASSIGNED", "USED", "WAITING", "CONTAINERS", "SOURCE")
_gpu_option = click.option("--gpu", metavar="GPU", help="Only there: a GPU's index or UUID.  [default: all GPUs]")


@click.group(epilog=examples("convgpu group ls", "convgpu group set lab 20GiB", "convgpu group set lab/team 8GiB"))
def command() -> None:
    """Show and change quotas that several containers share, while they run.

    A container is in a group by `convgpu run --group NAME` or the label convgpu.group. The limit of a group bounds what
    its containers are assigned together; each may have a lower one of its own. lab/team is a group in lab: what its
    containers hold counts in both. A group without a limit bounds nothing and sums. Limits can be in the
    configuration file too ([groups.lab]); one set by command wins over it, and stays over restarts.
    """


@command.command(
    "set",
    short_help="Set the limit of GROUP, on each GPU or one.",
    epilog=examples("convgpu group set lab 20GiB", "convgpu group set lab 10GiB --gpu 1", "convgpu group set lab none"),
)
@click.argument("group", type=GROUP)
@click.argument("size", type=SIZE_OR_NONE)
@_gpu_option
@run_dir_option
def set_limit(group: GroupName, size: tuple[int | None], gpu: str | None, run_dir: RunPaths) -> None:
    """Set the limit of GROUP to SIZE on each GPU; `none`: no limit, whatever is configured.

    Raised: what waits may go on at once. Lowered below what its containers are assigned: what they do not use is taken
    back, and they get nothing more until the group is under.
    """
    (limit_bytes,) = size
    with Client(run_dir.control_socket) as client:
        change = client.group_set(group, limit_bytes, gpu)
    _echo_change(change)


@command.command("rm", short_help="Go back to the limit that is configured.", epilog=examples("convgpu group rm lab"))
@click.argument("group", type=GROUP)
@_gpu_option
@run_dir_option
def remove_limit(group: GroupName, gpu: str | None, run_dir: RunPaths) -> None:
    """Go back from a limit set by command to what is configured for GROUP: another limit, or none."""
    with Client(run_dir.control_socket) as client:
        change = client.group_remove(group, gpu)
    _echo_change(change)


@command.command("get", epilog=examples("convgpu group get lab", "convgpu group get lab --format json"))
@click.argument("group", type=GROUP)
@format_option(_ONE)
@run_dir_option
def get_group(group: GroupName, output_format: str, run_dir: RunPaths) -> None:
    """Show the limit of GROUP, what its containers hold, and their names."""
    with Client(run_dir.control_socket) as client:
        status = client.group_get(group)
    if output_format != TABLE:
        echo_records(_ONE, [status], output_format)
        return
    _echo_groups([status])
    if status.containers:
        click.echo(f"Containers: {', '.join(status.containers)}")


@command.command("ls", epilog=examples("convgpu group ls", "convgpu group ls --format json"))
@format_option(_ALL)
@run_dir_option
def list_groups(output_format: str, run_dir: RunPaths) -> None:
    """Show all groups that have a limit, or containers."""
    with Client(run_dir.control_socket) as client:
        groups = client.group_list()
    if output_format != TABLE:
        echo_records(_ALL, groups, output_format)
    elif groups:
        _echo_groups(groups)
    else:
        click.echo("There are no groups.")


def _echo_groups(groups: Iterable[GroupStatus]) -> None:
    echo_table(
        _HEADINGS,
        [
            (
                group.name,
                str(usage.index),
                _limit(usage.limit_bytes),
                format_size(usage.assigned_bytes) + (" (over)" if usage.over else ""),
                format_size(usage.used_bytes),
                str(usage.waiting),
                str(len(group.containers)),
                usage.source or "-",
            )
            for group in groups
            for usage in group.devices
        ],
    )


def _limit(limit_bytes: int | None) -> str:
    return "none" if limit_bytes is None else format_size(limit_bytes)


def _echo_change(change: GroupChange) -> None:
    for device in change.devices:
        if device.old_limit_bytes != device.new_limit_bytes or len(change.devices) == 1:
            old, new = _limit(device.old_limit_bytes), _limit(device.new_limit_bytes)
            click.echo(f"{change.name}: limit {old} -> {new} on GPU {device.index}")
        if device.new_limit_bytes is not None and device.assigned_bytes > device.new_limit_bytes:
            click.echo(
                f"Its containers hold {format_size(device.assigned_bytes)} there: they keep that, and get nothing more "
                "until the group is under."
            )
    if all(device.old_limit_bytes == device.new_limit_bytes for device in change.devices) and len(change.devices) > 1:
        click.echo(f"{change.name}: nothing has changed.")
