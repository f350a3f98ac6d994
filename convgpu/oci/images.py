# SPDX-License-Identifier: Apache-2.0
"""Images: what one must know of an image before a library is preloaded into its containers."""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from convgpu.errors import EnvironmentMissingError
from convgpu.oci import targets
from convgpu.oci.rootfs import GLIBC_IMITATION, GLIBC_LOADERS, MUSL_LOADERS

_API_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """An image that is on this machine. `image_id` is 64 hexadecimal digits."""

    image_id: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """What an image's files say. `preload` is its own /etc/ld.so.preload, None where it has none."""

    preload: bytes | None
    musl: bool


class ImageSource(Protocol):
    """What ConvGPU needs of a container engine's images."""

    def find(self, reference: str) -> ImageSummary | None:
        """Look an image up by name or id; None: it is not on this machine."""

    def read(self, image_id: str) -> ImageFiles:
        """Look into an image."""


class DockerImages:
    """The images of the Docker engine, through docker-py.

    Raises:
        EnvironmentMissingError: No engine answers.
    """

    def __init__(self) -> None:
        # Imported here: docker-py takes longer to load than all the rest of `convgpu run` takes.
        import docker
        import docker.errors
        import requests.exceptions

        self._missing = docker.errors.NotFound
        self._failures = (docker.errors.DockerException, requests.exceptions.RequestException)
        try:
            self._client = docker.from_env(timeout=_API_TIMEOUT_S)
            self._client.ping()
            self._api: Any = self._client.api
        except self._failures as error:
            raise EnvironmentMissingError(
                f"Docker does not answer: {error}", next_step="start it (`systemctl start docker`), or set DOCKER_HOST"
            ) from error

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def find(self, reference: str) -> ImageSummary | None:
        """Look an image up by name or id."""
        try:
            inspected: dict[str, Any] = self._api.inspect_image(reference)
        except self._missing:
            return None
        except self._failures as error:
            raise EnvironmentMissingError(f"Docker does not describe the image {reference}: {error}") from error
        labels = (inspected.get("Config") or {}).get("Labels") or {}
        return ImageSummary(image_id=str(inspected["Id"]).removeprefix("sha256:"), labels=dict(labels))

    def read(self, image_id: str) -> ImageFiles:
        """Look into an image by way of a container that is created, never started, and removed again."""
        name = f"convgpu-look-{secrets.token_hex(6)}"
        try:
            # An image may have no command of its own, and create asks for one; this one never runs.
            self._api.create_container(image_id, command=["-"], name=name)
            try:
                musl = any(self._has(name, path) for path in MUSL_LOADERS)
                glibc = any(self._has(name, path) for path in GLIBC_LOADERS) and not self._has(name, GLIBC_IMITATION)
                return ImageFiles(preload=self._content(name, targets.PRELOAD), musl=musl and not glibc)
            finally:
                self._api.remove_container(name, force=True, v=True)
        except self._failures as error:
            raise EnvironmentMissingError(f"Docker does not show what is in the image {image_id}: {error}") from error

    def _has(self, container: str, path: str) -> bool:
        return self._archive(container, path) is not None

    def _content(self, container: str, path: str) -> bytes | None:
        archive = self._archive(container, path)
        if archive is None:
            return None
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as files:
            member = files.next()
            opened = files.extractfile(member) if member is not None and member.isfile() else None
            return opened.read() if opened is not None else None

    def _archive(self, container: str, path: str) -> Any:
        try:
            return self._api.get_archive(container, path)[0]
        except self._missing:
            return None
