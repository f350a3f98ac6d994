# SPDX-License-Identifier: Apache-2.0
"""Starts as the control socket speaks of them: what is asked and answered before a container runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRunArguments:
    """Arguments of `prepare_run`.

    Attributes:
        labels: What was asked of ConvGPU, by the names of its labels.
        docker_arguments: The arguments of `docker run`.
        label_files: The lines of each file named by `--label-file`.
        create: The container is to be created first, and started when it may be.
        pulled: A pull was tried already.
    """

    labels: Mapping[str, str]
    docker_arguments: tuple[str, ...]
    label_files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    create: bool = False
    pulled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRunAnswer:
    """Answer to `prepare_run`: commands, each empty where it is not needed.

    Attributes:
        command: `docker run`, or `docker create`.
        start: `docker start`, with `CONTAINER` for the id of what was created.
        pull: To be run first; then ask again.
        warning: What could not be checked.
    """

    command: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    pull: tuple[str, ...] = ()
    warning: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareCreateArguments:
    """Arguments of `prepare_create`, which the runtime shim asks before a container is created.

    Attributes:
        container: Its full id.
        labels: The labels of ConvGPU.
        library_target: Where the container will see the library.
        engine_folder: Docker's folder of the container; None: it is another engine's.
        preload: The container's own ld.so.preload, its bytes as Latin-1; None: it has none.
    """

    container: str
    labels: Mapping[str, str]
    library_target: str
    engine_folder: str | None = None
    preload: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareCreateAnswer:
    """Answer to `prepare_create`: the files of the host that the container gets."""

    library: str
    preload: str
    client_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitArguments:
    """Arguments of `admit`.

    Attributes:
        container: The full id of a container that was created and has not been started.
        since_ns: When its start was first asked for, CLOCK_MONOTONIC; 0: now. It keeps its place across a restart of
            the daemon.
    """

    container: str
    since_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitAnswer:
    """Answer to `admit`: the container has its whole guarantee and may be started."""

    waited_ms: int
