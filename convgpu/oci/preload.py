# SPDX-License-Identifier: Apache-2.0
"""The `/etc/ld.so.preload` of a guarded container: ConvGPU's line, then what the image's own file says."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Final

from convgpu.errors import UsageError
from convgpu.oci.files import replace_file
from convgpu.oci.images import ImageSource, ImageSummary

ANY_IMAGE_NAME: Final = "any-image"


def merged_content(own: bytes | None, library: PurePosixPath) -> bytes:
    """Return the file's content: ConvGPU's library first, so that its hooks are found first, then the image's own.

    glibc separates the names by white space or colons and ignores what follows a `#` (ld.so(8)).
    """
    names = [str(library)]
    for line in (own or b"").decode(errors="surrogateescape").splitlines():
        names += line.partition("#")[0].replace(":", " ").split()
    return "".join(f"{name}\n" for name in dict.fromkeys(names)).encode(errors="surrogateescape")


def preload_for_any(folder: Path, library: PurePosixPath) -> Path:
    """Return the file for an image that could not be looked at: ConvGPU's line alone."""
    path = folder / _file_name(ANY_IMAGE_NAME, library)
    replace_file(path, merged_content(None, library))
    return path


def preload_for(image: ImageSummary, images: ImageSource, folder: Path, library: PurePosixPath) -> Path:
    """Return the file for an image, made at its first use. An image id names a content, so the file stays right.

    Raises:
        UsageError: The image's programs are linked to musl, which does not read the file: the limit would not hold.
        EnvironmentMissingError: Docker does not answer.
    """
    path = folder / _file_name(image.image_id, library)
    if path.is_file():
        return path
    files = images.read(image.image_id)
    if files.musl:
        raise UsageError(
            f"the image {image.image_id[:12]} is built on musl, which cannot preload ConvGPU's library: the container "
            "would run without its limit",
            next_step="use an image built on glibc (Debian, Ubuntu, Fedora, NVIDIA's CUDA images); CUDA needs it too",
        )
    replace_file(path, merged_content(files.preload, library))
    return path


def preload_for_content(own: bytes | None, folder: Path, library: PurePosixPath) -> Path:
    """Return the file for a container whose own file is known, named by what is in it."""
    content = merged_content(own, library)
    path = folder / f"content-{hashlib.sha256(content).hexdigest()}"
    if not path.is_file():
        replace_file(path, content)
    return path


def _file_name(image_id: str, library: PurePosixPath) -> str:
    """Name the file by image and by the folder of the library, which is its one other ingredient."""
    return f"{image_id}{str(library.parent).replace('/', '-')}"
