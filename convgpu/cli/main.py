# SPDX-License-Identifier: Apache-2.0
"""`convgpu`: the table of verbs."""

from __future__ import annotations

from typing import Final

import click

from convgpu import __version__
from convgpu.cli.group import LazyGroup, Verb
from convgpu.errors import exit_statuses

VERBS: Final = {
    "run": Verb("convgpu.cli.run", "Start a container with a limit (docker run)."),
    "ps": Verb("convgpu.cli.ps", "List containers and what they hold."),
    "top": Verb("convgpu.cli.top", "Watch GPUs, containers and the queue."),
    "queue": Verb("convgpu.cli.queue", "Show who waits, why, and what would let it go on."),
    "events": Verb("convgpu.cli.events", "Tell what was decided and what happened."),
    "trace": Verb("convgpu.cli.trace", "Watch allocations as they happen."),
    "limit": Verb("convgpu.cli.limit", "Show and change limits while containers run."),
    "group": Verb("convgpu.cli.groups", "Show and change quotas that containers share."),
    "audit": Verb("convgpu.cli.audit", "Verify, query, export and picture the audit log."),
    "doctor": Verb("convgpu.cli.doctor", "Check what this machine has and lacks."),
    "daemon": Verb("convgpu.cli.daemon", "Run the service."),
    "config": Verb("convgpu.cli.config", "Check, show and reload the daemon's settings."),
    "simulate": Verb("convgpu.cli.simulate", "Compare scheduling algorithms in virtual time."),
    "replay": Verb("convgpu.cli.replay", "Run a recorded log through another algorithm."),
    "install": Verb("convgpu.cli.install", "Make ConvGPU a runtime of Docker and a service."),
    "uninstall": Verb("convgpu.cli.uninstall", "Undo install."),
    "cdi": Verb("convgpu.cli.cdi", "Make ConvGPU a device for Podman, containerd and others."),
    "completion": Verb("convgpu.cli.completion", "Complete commands and names in a shell."),
    "sim": Verb("convgpu.cli.sim", "Start and stop a simulated GPU."),
}


def _epilog() -> str:
    codes = "\n".join(f"  {status.code:>3}  {status.meaning}" for status in exit_statuses())
    return f"""\b
Exit status:
{codes}
`convgpu run` becomes `docker run`: from then on the status is Docker's.

\b
Example:
  convgpu run --limit 5GiB -- --gpus all -it nvidia/cuda:13.0.0-base-ubuntu24.04"""


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    epilog=_epilog(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="convgpu", message="%(prog)s %(version)s")
def main() -> None:
    """Docker containers share the memory of an NVIDIA GPU, each within a limit that can be changed live."""


if __name__ == "__main__":
    main(prog_name="convgpu")
