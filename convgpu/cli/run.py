# SPDX-License-Identifier: Apache-2.0
"""`convgpu run`: start a container with a limit."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import click

from convgpu.api import Client
from convgpu.cli.options import GROUP, GUARANTEE, PRIORITY, SIZE, WAIT, examples, run_dir_option
from convgpu.core.identity import GroupName
from convgpu.core.starting import PrepareRunAnswer, PrepareRunArguments
from convgpu.core.units import format_size
from convgpu.errors import EnvironmentMissingError
from convgpu.oci.arguments import RunArguments, parse_run_arguments
from convgpu.oci.run import RunSettings, Wait, check_conflicts, with_devices
from convgpu.paths import RunPaths


class RunCommand(click.Command):
    """A command that says where Docker's options belong when one of them stands before the `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the `--`; what follows is Docker's."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.NoSuchOption(
                error.option_name,
                f"{error.message} Docker's own options follow `--`: convgpu run --limit SIZE -- {error.option_name}",
                ctx=ctx,
            ) from error


@click.command(
    cls=RunCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="--limit SIZE [OPTIONS]",
    epilog=examples(
        "convgpu run --limit 5GiB -- --gpus all --rm -it pytorch/pytorch python train.py",
        "convgpu run --limit 8G --guarantee 2G --wait 10m -- --gpus all -d --name trainer my/image",
        "convgpu run --limit 8G --admit wait -- --gpus all --rm my/image",
        "convgpu run --limit 4G --group lab/team -- --gpus all --rm my/image",
        "convgpu run --limit 4G --device 0 --device 2 -- --rm my/image",
    ),
)
@click.option("--limit", type=SIZE, required=True, help="The most the container may hold on a GPU, such as 4GiB.")
@click.option(
    "--guarantee", type=GUARANTEE, metavar="SIZE", help="What is set aside from the start.  [default: the limit]"
)
@click.option("--wait", type=WAIT, help="How long an allocation may wait before it is denied.  [default: none: no end]")
@click.option("--priority", type=PRIORITY, help="Higher is served first.")
@click.option(
    "--group",
    type=GROUP,
    metavar="NAME",
    help="Share the quota of a group, such as lab or lab/team, with all containers in it.",
)
@click.option(
    "--admit",
    type=click.Choice(["now", "wait"]),
    default="now",
    show_default=True,
    help="now: start with what there is of the guarantee; wait: start when all of it is there.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="GPU",
    help="Give the container this GPU, by index or UUID, as Docker's `--gpus device=` does; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, then print Docker's command instead of running it.")
@run_dir_option
@click.argument(
    "docker_arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- DOCKER_RUN_ARGUMENTS...", required=True
)
def command(
    limit: int,
    guarantee: int | None,
    wait: Wait | None,
    priority: int | None,
    group: GroupName | None,
    admit: str,
    devices: tuple[str, ...],
    dry_run: bool,
    run_dir: RunPaths,
    docker_arguments: tuple[str, ...],
) -> None:
    """Start a container that may hold at most SIZE of a GPU's memory.

    Everything after `--` goes to `docker run` unchanged. ConvGPU adds labels and three read-only mounts (its library,
    /etc/ld.so.preload, the folder of the daemon's socket) and then becomes `docker run`: terminal, signals and exit
    status are Docker's own.
    """
    if guarantee is not None and guarantee > limit:
        raise click.BadParameter(
            f"{format_size(guarantee)} is more than the limit {format_size(limit)}", param_hint="'--guarantee'"
        )
    settings = RunSettings(limit_bytes=limit, guarantee_bytes=guarantee, wait=wait, priority=priority, group=group)
    docker_arguments = with_devices(devices, docker_arguments)
    arguments = parse_run_arguments(docker_arguments)
    label_files = _label_files(arguments)
    check_conflicts(arguments, label_files)
    asked = PrepareRunArguments(
        labels=settings.labels(),
        docker_arguments=docker_arguments,
        label_files=label_files,
        create=admit == "wait",
    )
    prepared = _prepare(asked, run_dir)
    if prepared.warning:
        click.echo(f"convgpu: {prepared.warning}", err=True)
    if dry_run:
        for line in (prepared.command, prepared.start):
            if line:
                click.echo(shlex.join(line))
    elif admit == "wait":
        from convgpu.cli.admission import create_and_wait  # threads and processes: not for a start that need not wait

        container = create_and_wait(prepared.command, run_dir)
        _become([*prepared.start[:-1], container])
    else:
        _become(list(prepared.command))


def _prepare(asked: PrepareRunArguments, run_dir: RunPaths) -> PrepareRunAnswer:
    """Have the daemon prepare the start; pull the image first where Docker would, because what is in it matters."""
    with Client(run_dir.control_socket) as client:
        prepared = client.prepare_run(asked)
        if prepared.pull:
            import subprocess

            # What fails here fails again in `docker run`, which says why.
            subprocess.run(prepared.pull, stdout=sys.stderr, check=False)
            prepared = client.prepare_run(replace(asked, pulled=True))
        return prepared


def _label_files(arguments: RunArguments) -> dict[str, list[str]]:
    """Read the files named by `--label-file`; one that cannot be read is left for Docker to refuse."""
    lines = {}
    for name in arguments.values("label-file"):
        try:
            lines[name] = Path(name).read_text(errors="replace").splitlines()
        except OSError:
            continue
    return lines


def _become(command_line: list[str]) -> None:
    """Replace this process, so that nothing stands between Docker and the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command_line[0], command_line)  # noqa: S606 -- no shell is wanted
    except OSError as error:
        raise EnvironmentMissingError(
            f"`docker` does not start: {error.strerror}", next_step="install Docker; `convgpu doctor` says more"
        ) from error
