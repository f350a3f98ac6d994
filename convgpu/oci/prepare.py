# SPDX-License-Identifier: Apache-2.0
"""The preparation of a start: from what a person asked for to the command that Docker is given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from convgpu.oci.arguments import RunArguments, parse_run_arguments
from convgpu.oci.images import ImageSource, ImageSummary
from convgpu.oci.labels import parse_labels
from convgpu.oci.preload import preload_for, preload_for_any
from convgpu.oci.run import (
    HostFiles,
    RunSettings,
    check_conflicts,
    docker_create_arguments,
    docker_run_arguments,
    docker_start_arguments,
    library_target,
)

CONTAINER: Final = "CONTAINER"
"""Stands in `PreparedRun.start` for the id that `docker create` will print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What is to be started.

    Attributes:
        settings: What was asked of ConvGPU.
        docker_arguments: The arguments of `docker run`.
        label_files: The lines of each file named by `--label-file`, by its name as given.
        create: The container is to be created first, and started when it may be.
        pulled: A pull was tried already: an image that is still missing is left to Docker.
    """

    settings: RunSettings
    docker_arguments: tuple[str, ...]
    label_files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    create: bool = False
    pulled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """What is to be done.

    Attributes:
        command: `docker run`, or `docker create`; empty where `pull` must come first.
        start: `docker start` of what was created, with CONTAINER for its id; empty with `docker run`.
        pull: The image is not on this machine, and what is in it must be known: run this, then ask again.
        warning: What could not be checked.
    """

    command: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    pull: tuple[str, ...] = ()
    warning: str | None = None


def prepare_run(
    request: RunRequest, images: ImageSource, *, library: Path, preload_dir: Path, client_dir: Path
) -> PreparedRun:
    """Check a start, make the image's ld.so.preload where it is the first of that image, and return the command.

    Raises:
        UsageError: The arguments conflict with what ConvGPU adds, a label of the image has a bad value, or the image
            is built on musl.
        EnvironmentMissingError: Docker does not answer.
    """
    arguments = parse_run_arguments(request.docker_arguments)
    check_conflicts(arguments, request.label_files)
    image = images.find(arguments.image) if arguments.image is not None else None
    warning = None
    if image is not None:
        preload = _preload_of(image, request.settings, images, preload_dir, library_target(arguments))
    elif _may_pull(arguments) and not request.pulled:
        return PreparedRun(pull=_pull(arguments))
    else:
        preload = preload_for_any(preload_dir, library_target(arguments))
        warning = f"{_why_unchecked(arguments)}: an /etc/ld.so.preload of the image's own would be hidden (unchecked)"
    files = HostFiles(library=library, preload=preload, client_dir=client_dir)
    if not request.create:
        run = docker_run_arguments(request.settings, request.docker_arguments, files)
        return PreparedRun(command=tuple(run), warning=warning)
    create = docker_create_arguments(request.settings, request.docker_arguments, files)
    start = docker_start_arguments(CONTAINER, request.docker_arguments)
    return PreparedRun(command=tuple(create), start=tuple(start), warning=warning)


def _preload_of(
    image: ImageSummary, settings: RunSettings, images: ImageSource, folder: Path, library: PurePosixPath
) -> Path:
    # Docker merges the image's labels with the container's; what would be refused at the container's first allocation
    # is better refused now.
    parse_labels({**image.labels, **settings.labels()})
    return preload_for(image, images, folder, library)


def _may_pull(arguments: RunArguments) -> bool:
    return arguments.image is not None and "never" not in arguments.values("pull")


def _pull(arguments: RunArguments) -> tuple[str, ...]:
    platform = [word for value in arguments.values("platform") for word in ("--platform", value)]
    return ("docker", "pull", *platform, str(arguments.image))


def _why_unchecked(arguments: RunArguments) -> str:
    if arguments.unknown is not None:
        return f"`{arguments.unknown}` is not an option of `docker run` that ConvGPU knows"
    if arguments.image is None:
        return "the arguments name no image"
    return f"there is no image {shlex.quote(arguments.image)} on this machine"
