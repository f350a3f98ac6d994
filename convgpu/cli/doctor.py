# SPDX-License-Identifier: Apache-2.0
"""`convgpu doctor`: what this machine has and lacks."""

from __future__ import annotations

import click

from convgpu.cli.listing import Listing
from convgpu.cli.options import examples, format_option, run_dir_option
from convgpu.cli.output import JSON, TABLE, echo_records
from convgpu.doctor.finding import Finding
from convgpu.paths import RunPaths

_LISTING = Listing(Finding)


@click.command(epilog=examples("sudo convgpu doctor", "convgpu doctor --json | jq '.[] | select(.status==\"fail\")'"))
@format_option(_LISTING)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@run_dir_option
@click.pass_context
def command(ctx: click.Context, output_format: str, as_json: bool, run_dir: RunPaths) -> None:
    """Check, mostly by trying, whether this machine can run ConvGPU, and say how to mend what it lacks.

    The exit status is 1 if a check failed; warnings do not count.
    """
    from convgpu.doctor import examine
    from convgpu.doctor.report import report

    findings = examine(run_dir)
    if as_json:
        output_format = JSON
    if output_format == TABLE:
        click.echo(report(findings))
    else:
        echo_records(_LISTING, findings, output_format)
    ctx.exit(any(finding.status == "fail" for finding in findings))
