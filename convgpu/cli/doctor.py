# SPDX-License-Identifier: Apache-2.0
"""`convgpu doctor`: what this machine has and lacks."""

from __future__ import annotations

import click

from convgpu.cli.options import examples, run_dir_option
from convgpu.cli.output import echo_json
from convgpu.paths import RunPaths


@click.command(epilog=examples("sudo convgpu doctor", "convgpu doctor --json | jq '.[] | select(.status==\"fail\")'"))
@click.option("--json", "as_json", is_flag=True, help="Findings as a list of objects name, status, detail, fix.")
@run_dir_option
@click.pass_context
def command(ctx: click.Context, as_json: bool, run_dir: RunPaths) -> None:
    """Check, mostly by trying, whether this machine can run ConvGPU, and say how to mend what it lacks.

    The exit status is 1 if a check failed; warnings do not count.
    """
    from convgpu.doctor import examine
    from convgpu.doctor.report import report

    findings = examine(run_dir)
    if as_json:
        echo_json(findings)
    else:
        click.echo(report(findings))
    ctx.exit(any(finding.status == "fail" for finding in findings))
