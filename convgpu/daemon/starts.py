# SPDX-License-Identifier: Apache-2.0
"""Starts of containers: what is checked and made ready before there is a container, where everything is loaded already.

`convgpu run` and the runtime shim ask here because to load all of this takes longer than a start may.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

from convgpu.core.identity import ContainerId
from convgpu.core.starting import PrepareCreateAnswer, PrepareCreateArguments, PrepareRunAnswer, PrepareRunArguments
from convgpu.daemon.admissions import Admissions
from convgpu.daemon.containers import Containers
from convgpu.daemon.guard import Guard
from convgpu.daemon.registry import Registry
from convgpu.errors import EnvironmentMissingError, ProtocolError
from convgpu.native import LIBRARY_NAME, native_dir
from convgpu.oci.images import DockerImages, ImageSource
from convgpu.oci.labels import parse_labels
from convgpu.oci.preload import preload_for_content
from convgpu.oci.prepare import PreparedRun, RunRequest, prepare_run
from convgpu.oci.run import RunSettings
from convgpu.paths import RunPaths
from convgpu.sources.docker import ContainerFacts, facts_of_folder


class Starts:
    """Answers `prepare_run` and `prepare_create`.

    Args:
        remember: Keeps annotations that an engine's API will not tell.
        images: Opens the engine's images; asked again after the engine did not answer.
    """

    def __init__(
        self,
        registry: Registry,
        containers: Containers,
        guard: Guard,
        admissions: Admissions,
        remember: Callable[[ContainerId, Mapping[str, str]], None],
        paths: RunPaths,
        images: Callable[[], ImageSource] = DockerImages,
    ) -> None:
        self._registry = registry
        self._containers = containers
        self._guard = guard
        self._admissions = admissions
        self._remember = remember
        self._paths = paths
        self._open_images = images
        self._images: ImageSource | None = None

    async def prepare_run(self, arguments: PrepareRunArguments) -> PrepareRunAnswer:
        """Check a start and return Docker's command.

        Raises:
            UsageError: The arguments would undo what ConvGPU adds, or the image cannot preload a library.
            QuotaRefusedError: The limit is larger than what the devices have.
            EnvironmentMissingError: Docker does not answer.
        """
        settings = RunSettings.of(arguments.labels)
        self._containers.check_start(settings.limit_bytes, settings.guarantee_bytes, settings.group)
        request = RunRequest(
            settings=settings,
            docker_arguments=arguments.docker_arguments,
            label_files=arguments.label_files,
            create=arguments.create,
            pulled=arguments.pulled,
        )
        prepared = await asyncio.to_thread(self._prepare, request)
        return PrepareRunAnswer(**asdict(prepared))

    def _prepare(self, request: RunRequest) -> PreparedRun:
        """Ask Docker and write a file: not in the loop."""
        images = self._images or self._open_images()
        try:
            prepared = prepare_run(
                request,
                images,
                library=native_dir() / LIBRARY_NAME,
                preload_dir=self._paths.preload_dir,
                client_dir=self._paths.client_dir,
            )
        except EnvironmentMissingError:
            self._images = None
            raise
        self._images = images
        return prepared

    async def prepare_create(self, arguments: PrepareCreateArguments) -> PrepareCreateAnswer:
        """Check a container that an engine is about to create, and wait for its guarantee where its label says so.

        Docker must not be asked about it: Docker holds it locked until the runtime is done.

        Raises:
            UsageError: A label has a bad value; the message names it.
            QuotaRefusedError: The limit is larger than what the devices have, or the wait is over.
        """
        labels = parse_labels(arguments.labels)
        self._containers.check_start(labels.limit_bytes, labels.guarantee_bytes, labels.group)
        own = None if arguments.preload is None else arguments.preload.encode("latin-1")
        preload = preload_for_content(own, self._paths.preload_dir, PurePosixPath(arguments.library_target))
        if arguments.engine_folder is None and arguments.labels:
            self._remember(ContainerId(arguments.container), arguments.labels)
        if labels.admit_wait:
            before = self._registry.containers.get(ContainerId(arguments.container))
            if before is not None:
                self._guard.end_container(before)  # it starts again: its end has not been noticed yet
            await self._admissions.wait_for(_facts(arguments))
        return PrepareCreateAnswer(
            library=str(native_dir() / LIBRARY_NAME), preload=str(preload), client_dir=str(self._paths.client_dir)
        )


def _facts(arguments: PrepareCreateArguments) -> ContainerFacts:
    """Return what the engine's own files say of a container.

    Raises:
        ProtocolError: They do not say it in a form that is known.
    """
    if arguments.engine_folder is None:
        raise ProtocolError("convgpu.admit=wait needs Docker: only its folders tell what was asked for a container")
    try:
        facts = facts_of_folder(Path(arguments.engine_folder))
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ProtocolError(f"{arguments.engine_folder} does not tell what the container is: {error!r}") from error
    return replace(facts, state="created", pid=0, labels={**facts.labels, **arguments.labels})
