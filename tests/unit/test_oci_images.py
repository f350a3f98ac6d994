# SPDX-License-Identifier: Apache-2.0
"""What can be learned of an image without starting it, on a real engine."""

from __future__ import annotations

import io
import secrets
import subprocess
import tarfile

import pytest

from convgpu.oci.images import DockerImages

pytestmark = pytest.mark.docker


@pytest.fixture
def images():
    source = DockerImages()
    yield source
    source.close()


@pytest.fixture
def make_image():
    """Import an image made of the given files; they are removed again, with whatever was made of them."""
    made = []

    def make(files, *changes):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        name = f"convgpu-test-{secrets.token_hex(4)}:latest"
        options = [part for change in changes for part in ("--change", change)]
        subprocess.run(
            ["docker", "import", *options, "-", name], input=packed.getvalue(), check=True, capture_output=True
        )
        made.append(name)
        return name

    yield make
    for name in made:
        subprocess.run(["docker", "rmi", "--force", name], check=True, capture_output=True)


def test_an_image_that_is_not_here(images):
    assert images.find("convgpu-test-no-such-image") is None


def test_an_images_id_and_labels(images, make_image):
    found = images.find(make_image({"a": b""}, "LABEL convgpu.limit=2GiB"))
    assert len(found.image_id) == 64
    assert found.labels == {"convgpu.limit": "2GiB"}


@pytest.mark.parametrize(
    ("files", "preload", "musl"),
    [
        ({"bin/true": b""}, None, False),
        ({"etc/ld.so.preload": b"/lib/mine.so\n"}, b"/lib/mine.so\n", False),
        ({"lib/ld-musl-x86_64.so.1": b""}, None, True),
        ({"lib/ld-musl-x86_64.so.1": b"", "lib64/ld-linux-x86-64.so.2": b""}, None, False),
        (
            {"lib/ld-musl-x86_64.so.1": b"", "lib64/ld-linux-x86-64.so.2": b"", "lib/libgcompat.so.0": b""},
            None,
            True,
        ),
    ],
    ids=["empty", "own preload file", "musl", "glibc with musl beside it", "musl that imitates glibc"],
)
def test_what_is_in_an_image(images, make_image, files, preload, musl):
    image = images.find(make_image(files))
    read = images.read(image.image_id)
    assert (read.preload, read.musl) == (preload, musl)
    left = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", "name=convgpu-look-"], check=True, capture_output=True
    )
    assert left.stdout == b"", "nothing is left behind"
