# SPDX-License-Identifier: Apache-2.0
"""Images that live in memory: what `convgpu.oci` needs of an engine, without one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from convgpu.oci.images import ImageFiles, ImageSummary


class FakeImages:
    """An `ImageSource` whose images a test makes.

    Attributes:
        looks: The ids of the images that were looked into, in order.
    """

    def __init__(self) -> None:
        self._found: dict[str, ImageSummary] = {}
        self._files: dict[str, ImageFiles] = {}
        self.looks: list[str] = []

    def add(
        self,
        reference: str,
        labels: Mapping[str, str] | None = None,
        preload: bytes | None = None,
        *,
        musl: bool = False,
    ) -> str:
        """Make an image and return its id; one of the same name takes the name over."""
        image_id = hashlib.sha256(repr((reference, labels, preload, musl)).encode()).hexdigest()
        self._found[reference] = ImageSummary(image_id=image_id, labels=dict(labels or {}))
        self._files[image_id] = ImageFiles(preload=preload, musl=musl)
        return image_id

    def find(self, reference: str) -> ImageSummary | None:
        """Look an image up by name."""
        return self._found.get(reference)

    def read(self, image_id: str) -> ImageFiles:
        """Look into an image."""
        self.looks.append(image_id)
        return self._files[image_id]
