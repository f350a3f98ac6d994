# SPDX-License-Identifier: Apache-2.0
"""`convgpu doctor`: what this machine has and lacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convgpu.cli.listing import Listing
from convgpu.cli.options import examples, format_option, run_dir_option
from convgpu.cli.output import JSON, TABLE, echo_records
from convgpu.cli.progress import Progress
from convgpu.doctor.finding import Finding, Machine
from convgpu.paths import RunPaths

if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTING = Listing(Finding)


@click.command(
    epilog=examples(
        "sudo convgpu doctor",
        "convgpu doctor --json | jq '.[] | select(.status==\"fail\")'",
        "sudo convgpu doctor --bundle convgpu-bundle.tar.gz",
    )
)
@format_option(_LISTING)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a .tar.gz for a report of a fault too, without names and secrets.",
)
@run_dir_option
@click.pass_context
def command(ctx: click.Context, output_format: str, as_json: bool, bundle: Path | None, run_dir: RunPaths) -> None:
    """Check, mostly by trying, whether this machine can run ConvGPU, and say how to mend what it lacks.

    The exit status is 1 if a check failed; warnings do not count. Some checks take seconds: probes are attached and
    taken away again, and a program of ours runs in a container of an empty image that is removed afterwards.

    What a bundle has in it is said before it is written, and by its README; it never leaves this machine by itself.
    """
    from convgpu.doctor import CHECKS, examine

    if bundle is not None:
        _announce(bundle)
    with Progress("Checking", len(CHECKS)) as progress:
        findings = examine(run_dir, on_begin=progress.reach)
    if as_json:
        output_format = JSON
    if output_format == TABLE:
        from convgpu.doctor.report import report

        click.echo(report(findings))
    else:
        echo_records(_LISTING, findings, output_format)
    if bundle is not None:
        _write(bundle, findings, run_dir)
    ctx.exit(any(finding.status == "fail" for finding in findings))


def _announce(path: Path) -> None:
    from convgpu.doctor.bundle import CONTENTS, REMOVED, require

    require(path)
    click.echo(f"{path} will have:", err=True)
    for name, about in CONTENTS.items():
        click.echo(f"  {name}: {about}", err=True)
    click.echo(f"{REMOVED.replace('FILE', str(path))}\n", err=True)


def _write(path: Path, findings: Sequence[Finding], run_dir: RunPaths) -> None:
    from convgpu.doctor.bundle import write

    members = write(path, findings, Machine(paths=run_dir), os.environ)
    sizes = ", ".join(f"{name} ({size} bytes)" for name, size in members)
    click.echo(f"wrote {path}: {sizes}", err=True)
