# SPDX-License-Identifier: Apache-2.0
"""Starts of containers: what is checked and made ready before Docker is asked, where everything is loaded already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from convgpu.api import PrepareRunAnswer, PrepareRunArguments
from convgpu.daemon.containers import Containers
from convgpu.errors import EnvironmentMissingError
from convgpu.native import native_dir
from convgpu.oci.images import DockerImages, ImageSource
from convgpu.oci.prepare import PreparedRun, RunRequest, prepare_run
from convgpu.oci.run import RunSettings
from convgpu.paths import RunPaths

LIBRARY_NAME: Final = "libconvgpu.so"


class Starts:
    """Answers `prepare_run`: `convgpu run` asks here because to load all of this takes longer than to start.

    Args:
        images: Opens the engine's images; asked again after the engine did not answer.
    """

    def __init__(
        self, containers: Containers, paths: RunPaths, images: Callable[[], ImageSource] = DockerImages
    ) -> None:
        self._containers = containers
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
        self._containers.check_start(settings.limit_bytes, settings.guarantee_bytes)
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
