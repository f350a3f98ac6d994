# SPDX-License-Identifier: Apache-2.0
"""`convgpu run`: start a container with a limit."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click

from convgpu.api import Client
from convgpu.cli.admission import create_and_wait
from convgpu.cli.options import GUARANTEE, PRIORITY, SIZE, WAIT, examples, run_dir_option
from convgpu.core.units import format_size
from convgpu.errors import EnvironmentMissingError
from convgpu.native import native_dir
from convgpu.oci.arguments import RunArguments, parse_run_arguments
from convgpu.oci.images import DockerImages, ImageSummary
from convgpu.oci.labels import parse_labels
from convgpu.oci.preload import preload_for, preload_for_any
from convgpu.oci.run import (
    HostFiles,
    RunSettings,
    Wait,
    check_conflicts,
    docker_create_arguments,
    docker_run_arguments,
    docker_start_arguments,
    library_target,
)
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
    ),
)
@click.option("--limit", type=SIZE, required=True, help="The most the container may hold on a GPU, such as 4GiB.")
@click.option(
    "--guarantee", type=GUARANTEE, metavar="SIZE", help="What is set aside from the start.  [default: the limit]"
)
@click.option("--wait", type=WAIT, help="How long an allocation may wait before it is denied.  [default: none: no end]")
@click.option("--priority", type=PRIORITY, help="Higher is served first.")
@click.option(
    "--admit",
    type=click.Choice(["now", "wait"]),
    default="now",
    show_default=True,
    help="now: start with what there is of the guarantee; wait: start when all of it is there.",
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
    admit: str,
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
    settings = RunSettings(limit_bytes=limit, guarantee_bytes=guarantee, wait=wait, priority=priority)
    arguments = parse_run_arguments(docker_arguments)
    check_conflicts(arguments, _label_files(arguments))
    with Client(run_dir.control_socket) as client:
        client.check_start(limit, guarantee)
    files = HostFiles(
        library=native_dir() / "libconvgpu.so",
        preload=_preload(arguments, settings, run_dir),
        client_dir=run_dir.client_dir,
    )
    if admit == "now":
        docker = docker_run_arguments(settings, docker_arguments, files)
        if dry_run:
            click.echo(shlex.join(docker))
            return
    else:
        create = docker_create_arguments(settings, docker_arguments, files)
        if dry_run:
            click.echo(shlex.join(create))
            click.echo(shlex.join(docker_start_arguments("CONTAINER", docker_arguments)))
            return
        docker = docker_start_arguments(create_and_wait(create, run_dir), docker_arguments)
    _become(docker)


def _label_files(arguments: RunArguments) -> dict[str, list[str]]:
    """Read the files named by `--label-file`; one that cannot be read is left for Docker to refuse."""
    lines = {}
    for name in arguments.values("label-file"):
        try:
            lines[name] = Path(name).read_text(errors="replace").splitlines()
        except OSError:
            continue
    return lines


def _preload(arguments: RunArguments, settings: RunSettings, run_dir: RunPaths) -> Path:
    """Return the ld.so.preload for this image; where the image cannot be told, that without the image's own lines."""
    library = library_target(arguments)
    images = DockerImages()
    try:
        image = _find_image(arguments, images)
        if image is not None:
            # Docker merges the image's labels with the container's; what would be refused at the container's first
            # allocation is better refused now.
            parse_labels({**image.labels, **settings.labels()})
            return preload_for(image, images, run_dir.preload_dir, library)
    finally:
        images.close()
    _warn_unchecked(arguments)
    return preload_for_any(run_dir.preload_dir, library)


def _find_image(arguments: RunArguments, images: DockerImages) -> ImageSummary | None:
    if arguments.image is None:
        return None
    image = images.find(arguments.image)
    if image is None and "never" not in arguments.values("pull"):
        # Docker would pull it now; what is in it must be known before.
        platform = [part for value in arguments.values("platform") for part in ("--platform", value)]
        pull = ["docker", "pull", *platform, arguments.image]
        if subprocess.run(pull, stdout=sys.stderr, check=False).returncode == 0:
            image = images.find(arguments.image)
    return image


def _warn_unchecked(arguments: RunArguments) -> None:
    if arguments.unknown is not None:
        reason = f"`{arguments.unknown}` is not an option of `docker run` that ConvGPU knows"
    elif arguments.image is None:
        reason = "the arguments name no image"
    else:
        reason = f"there is no image {arguments.image} on this machine"
    click.echo(f"convgpu: {reason}: an /etc/ld.so.preload of the image's own would be hidden (unchecked)", err=True)


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
