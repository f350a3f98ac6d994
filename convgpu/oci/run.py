# SPDX-License-Identifier: Apache-2.0
"""`docker run` with a limit: the arguments that ConvGPU adds, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from convgpu.core.durations import format_duration, parse_duration
from convgpu.core.identity import GroupName
from convgpu.errors import UsageError
from convgpu.oci import labels, targets
from convgpu.oci.arguments import RunArguments, parse_run_arguments
from convgpu.oci.mounts import bind_argument, mounts_of

LIBRARY_TARGET: Final = PurePosixPath(targets.LIBRARY)
LIBRARY_TARGET_ASIDE: Final = PurePosixPath(targets.LIBRARY_ASIDE)
PRELOAD_TARGET: Final = PurePosixPath(targets.PRELOAD)
CLIENT_TARGET: Final = PurePosixPath(targets.CLIENT)
_RUN_ONLY: Final = ("detach", "detach-keys", "sig-proxy")
"""Options of `docker run` that `docker create` does not have."""
_DEVICE: Final = re.compile(r"\d+|GPU-[0-9A-Za-z-]+")
"""How nvidia-container-cli names a GPU: its index or its UUID."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a suspended request waits; None: without end, even where the image's label names an end."""

    duration_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What the person asked for; None: not asked, so the image's label or the daemon's default holds."""

    limit_bytes: int
    guarantee_bytes: int | None = None
    wait: Wait | None = None
    priority: int | None = None
    group: GroupName | None = None

    @classmethod
    def of(cls, written: Mapping[str, str]) -> RunSettings:
        """Read the settings from labels, as `labels` writes them or as a person does.

        Raises:
            UsageError: There is no limit, or a label has a bad value; the message names it.
        """
        read = labels.parse_labels(written)
        if read.limit_bytes is None:
            raise UsageError(f"there is no {labels.LABEL_LIMIT}: a start needs a limit")
        return cls(
            limit_bytes=read.limit_bytes,
            guarantee_bytes=read.guarantee_bytes,
            wait=Wait(parse_duration(written[labels.LABEL_WAIT])) if labels.LABEL_WAIT in written else None,
            priority=read.priority if labels.LABEL_PRIORITY in written else None,
            group=read.group,
        )

    def labels(self) -> dict[str, str]:
        """Return the labels that carry these settings to the daemon."""
        written = {labels.LABEL_LIMIT: str(self.limit_bytes)}
        if self.guarantee_bytes is not None:
            written[labels.LABEL_GUARANTEE] = str(self.guarantee_bytes)
        if self.wait is not None:
            written[labels.LABEL_WAIT] = format_duration(self.wait.duration_ns)
        if self.priority is not None:
            written[labels.LABEL_PRIORITY] = str(self.priority)
        if self.group is not None:
            written[labels.LABEL_GROUP] = self.group
        return written


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFiles:
    """The files of the host that the container gets, read-only."""

    library: Path
    preload: Path
    client_dir: Path


def library_target(arguments: RunArguments) -> PurePosixPath:
    """Return where the library appears in the container: the one line that ConvGPU adds to its ld.so.preload."""
    covered = any(mount.bind and mount.covers(LIBRARY_TARGET) for mount in mounts_of(arguments))
    return LIBRARY_TARGET_ASIDE if covered else LIBRARY_TARGET


def check_conflicts(arguments: RunArguments, label_files: Mapping[str, Sequence[str]] | None = None) -> None:
    """Refuse arguments that would undo what ConvGPU adds.

    Args:
        arguments: The user's arguments.
        label_files: The lines of each file named by `--label-file`, by its name as given.

    Raises:
        UsageError: A label that ConvGPU sets itself, or a mount over one of its files.
    """
    given = [("--label", value) for value in arguments.values("label")]
    for name, lines in (label_files or {}).items():
        given += [(f"--label-file {name}", line.strip()) for line in lines]
    for origin, value in given:
        label = value.partition("=")[0]
        if label.startswith(labels.PREFIX):
            raise UsageError(
                f"the label {label} is given to Docker ({origin}) and belongs to `convgpu run`",
                next_step="use --limit, --guarantee, --wait, --priority, --group before the `--`, and drop the label",
            )
    for mount in mounts_of(arguments):
        if mount.target in (PRELOAD_TARGET, CLIENT_TARGET, LIBRARY_TARGET, LIBRARY_TARGET.parent):
            raise UsageError(
                f"`{mount.argument}` mounts over {mount.target}, which `convgpu run` needs itself",
                next_step="drop that mount; what an image's own /etc/ld.so.preload names is kept",
            )
        if mount.bind and mount.covers(PRELOAD_TARGET):
            raise UsageError(
                f"`{mount.argument}` mounts a folder of the host over /etc, where `convgpu run` needs {PRELOAD_TARGET}",
                next_step="mount the single files that the container needs from /etc",
            )


def with_devices(devices: Sequence[str], user_arguments: Sequence[str]) -> tuple[str, ...]:
    """Return Docker's arguments with the GPUs that were named for ConvGPU: `--gpus device=...`.

    Args:
        devices: Index or UUID of each; none: the arguments stay as they are.
        user_arguments: As for `docker_run_arguments`.

    Raises:
        UsageError: `--gpus` is among them already, or a name would mean something else to Docker.
    """
    if not devices:
        return tuple(user_arguments)
    if parse_run_arguments(user_arguments).values("gpus"):
        raise UsageError(
            "--device and Docker's --gpus both say which GPUs the container gets",
            next_step="name them once: --device before the `--`, or --gpus after it",
        )
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise UsageError(
                f"'{device}' is neither the index nor the UUID of a GPU",
                next_step="`nvidia-smi -L` lists both, such as 0 and GPU-5f3c...",
            )
    # Docker reads a list of options there, so commas between devices have to be quoted.
    named = ",".join(devices)
    return ("--gpus", f'"device={named}"' if len(devices) > 1 else f"device={named}", *user_arguments)


def docker_run_arguments(settings: RunSettings, user_arguments: Sequence[str], files: HostFiles) -> list[str]:
    """Return the whole command: `docker run`, what ConvGPU adds, then the user's arguments, unchanged.

    Raises:
        UsageError: The user's arguments conflict with what is added.
    """
    check_conflicts(parse_run_arguments(user_arguments))
    return ["docker", "run", *_added(settings, parse_run_arguments(user_arguments), files), *user_arguments]


def docker_create_arguments(settings: RunSettings, user_arguments: Sequence[str], files: HostFiles) -> list[str]:
    """Return `docker create` for the same container, without the options that only `docker run` has.

    Raises:
        UsageError: The user's arguments conflict with what is added, or are not understood, so that nobody can say
            which of them are `docker run`'s alone.
    """
    arguments = parse_run_arguments(user_arguments)
    check_conflicts(arguments)
    if arguments.image is None:
        unknown = f"`{arguments.unknown}` is not an option that ConvGPU knows" if arguments.unknown else "no image"
        raise UsageError(
            f"--admit wait needs to understand all of Docker's arguments: {unknown}",
            next_step="write the option as --name=value, or leave --admit wait out",
        )
    options = [f"--{name}={value}" for name, value in arguments.options if name not in _RUN_ONLY]
    return ["docker", "create", *_added(settings, arguments, files), *options, arguments.image, *arguments.command]


def docker_start_arguments(container: str, user_arguments: Sequence[str]) -> list[str]:
    """Return the `docker start` that goes on as `docker run` would have: attached, unless `-d` was given."""
    arguments = parse_run_arguments(user_arguments)
    command = ["docker", "start"]
    if not arguments.is_on("detach"):
        command.append("--attach")
        if arguments.is_on("interactive"):
            command.append("--interactive")
        command += [f"--detach-keys={keys}" for keys in arguments.values("detach-keys")]
    return [*command, container]


def _added(settings: RunSettings, arguments: RunArguments, files: HostFiles) -> list[str]:
    added: list[str] = []
    for name, value in settings.labels().items():
        added += ["--label", f"{name}={value}"]
    for source, target in (
        (files.library, library_target(arguments)),
        (files.preload, PRELOAD_TARGET),
        (files.client_dir, CLIENT_TARGET),
    ):
        added += ["--mount", bind_argument(str(source), str(target))]
    return added
