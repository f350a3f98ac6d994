# SPDX-License-Identifier: Apache-2.0
"""`convgpu ps`: containers and what they hold."""

from __future__ import annotations

import click

from convgpu.api import Client
from convgpu.cli.listing import Listing
from convgpu.cli.options import examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, echo_records, echo_table
from convgpu.core.status import ContainerStatus, DeviceUsage, FindingStatus, Snapshot
from convgpu.core.units import format_size
from convgpu.paths import RunPaths

_HEADINGS = ("CONTAINER ID", "NAME", "IMAGE", "STATE", "GPU", "USED", "LIMIT", "ASSIGNED", "PEAK", "WAITING", "DENIED")
_ID_DIGITS = 12
_LISTING = Listing(ContainerStatus, parts="devices")


@click.command(
    epilog=examples(
        "convgpu ps", "convgpu ps --format json | jq '.[].devices[].used_bytes'", "convgpu ps --format csv > usage.csv"
    )
)
@format_option(_LISTING)
@run_dir_option
def command(output_format: str, run_dir: RunPaths) -> None:
    """List the containers that ConvGPU guards, one line for each container and device.

    A value that is not known is N/A, and null in JSON. WAITING counts the allocations that wait now, DENIED those
    denied since the container started. "estimated" means that the driver inside allocates in a form which ConvGPU
    cannot read: USED is what the programs asked for.

    Where a container is in a group, GROUP says in which; `convgpu group ls` has the groups' own figures.

    A word in brackets after the state is something that the daemon found by comparing its ledger with what the eBPF
    witness and NVML see: unwrapped (memory held without ConvGPU's library), bypass (more than the library said),
    tampered (the library's account was written into), mismatch (figures that differ otherwise).
    """
    with Client(run_dir.control_socket) as client:
        snapshot = client.snapshot()
    if output_format != TABLE:
        echo_records(_LISTING, snapshot.containers, output_format)
        return
    rows = [row for container in snapshot.containers for row in _rows(container)]
    groups = [container.group or "-" for container in snapshot.containers for _ in container.devices or (None,)]
    if any(container.group for container in snapshot.containers):
        at = _HEADINGS.index("GPU")
        grouped = [(*row[:at], group, *row[at:]) for row, group in zip(rows, groups, strict=True)]
        echo_table((*_HEADINGS[:at], "GROUP", *_HEADINGS[at:]), grouped)
    else:
        echo_table(_HEADINGS, rows)
    of_containers = [finding for container in snapshot.containers for finding in container.findings]
    for finding in (*of_containers, *(finding for gpu in snapshot.gpus for finding in gpu.findings)):
        click.echo(f"{finding.kind}: {_about(finding, snapshot)}: {finding.reason}.", err=True)
    for gpu in snapshot.gpus:
        if gpu.external_bytes:
            text = f"GPU {gpu.index}: {format_size(gpu.external_bytes)} are held outside ConvGPU, "
            click.echo(f"{text}containers may be assigned {format_size(gpu.capacity_bytes)}.", err=True)
    for sentence in snapshot.undecided:
        click.echo(f"Not decided: {sentence}.", err=True)
    if snapshot.simulated:
        click.echo("GPUs are simulated.", err=True)


def _rows(container: ContainerStatus) -> list[tuple[str, ...]]:
    who = (container.container_id[:_ID_DIGITS], container.name, container.image)
    if not container.devices:
        return [(*who, container.state, *["N/A"] * (len(_HEADINGS) - len(who) - 1))]
    return [(*who, _state(container, device), *_device_cells(device)) for device in container.devices]


def _state(container: ContainerStatus, device: DeviceUsage) -> str:
    findings = container.findings_on(device.uuid)
    state = f"{container.state} ({', '.join(findings)})" if findings else container.state
    return f"{state}, estimated" if device.estimated else state


def _about(finding: FindingStatus, snapshot: Snapshot) -> str:
    index = next((gpu.index for gpu in snapshot.gpus if gpu.uuid == finding.uuid), "N/A")
    pids = f", pid {', '.join(map(str, finding.pids))}" if finding.pids else ""
    return f"{finding.container_name or 'outside'}{pids}, GPU {index}"


def _device_cells(device: DeviceUsage) -> tuple[str, ...]:
    sizes = (device.used_bytes, device.limit_bytes, device.assigned_bytes, device.peak_bytes)
    return (str(device.index), *map(format_size, sizes), str(device.waiting), str(device.denied))
