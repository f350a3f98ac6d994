# SPDX-License-Identifier: Apache-2.0
"""The merged ld.so.preload, one for each image."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from convgpu.errors import UsageError
from convgpu.oci.images import ImageFiles, ImageSummary
from convgpu.oci.preload import merged_content, preload_for, preload_for_any

LIBRARY = PurePosixPath("/usr/local/lib/convgpu/libconvgpu.so")
IMAGE = ImageSummary("ab" * 32)


class Images:
    """An engine with one image; counts how often somebody looked into it."""

    def __init__(self, preload=None, *, musl=False):
        self.files = ImageFiles(preload, musl)
        self.looks = 0

    def find(self, reference):
        return IMAGE

    def read(self, image_id):
        assert image_id == IMAGE.image_id
        self.looks += 1
        return self.files


def test_without_a_file_of_its_own_there_is_one_line():
    assert merged_content(None, LIBRARY) == b"/usr/local/lib/convgpu/libconvgpu.so\n"


def test_the_images_own_libraries_follow_once_each():
    own = b"/lib/a.so:/lib/b.so  /lib/a.so # /lib/no.so\n\n" + str(LIBRARY).encode() + b"\n/lib/\xff.so"
    assert merged_content(own, LIBRARY).splitlines() == [
        str(LIBRARY).encode(), b"/lib/a.so", b"/lib/b.so", b"/lib/\xff.so",
    ]  # fmt: skip


def test_an_image_is_looked_into_once(tmp_path):
    images = Images(b"/lib/jemalloc.so\n")
    first = preload_for(IMAGE, images, tmp_path / "preload", LIBRARY)
    second = preload_for(IMAGE, images, tmp_path / "preload", LIBRARY)
    assert first == second
    assert images.looks == 1
    assert first.read_bytes() == str(LIBRARY).encode() + b"\n/lib/jemalloc.so\n"
    assert first.stat().st_mode & 0o777 == 0o644, "every user of the container reads it"
    assert [path.name for path in first.parent.iterdir()] == [first.name], "no draft is left"


def test_another_place_of_the_library_is_another_file(tmp_path):
    aside = PurePosixPath("/.convgpu/libconvgpu.so")
    usual, other = (preload_for(IMAGE, Images(), tmp_path, library) for library in (LIBRARY, aside))
    assert usual != other
    assert other.read_text() == "/.convgpu/libconvgpu.so\n"
    assert preload_for_any(tmp_path, LIBRARY) != preload_for_any(tmp_path, aside)


def test_a_musl_image_is_refused_and_not_remembered(tmp_path):
    images = Images(musl=True)
    for _ in range(2):
        with pytest.raises(UsageError, match="musl") as refused:
            preload_for(IMAGE, images, tmp_path, LIBRARY)
        assert "glibc" in refused.value.next_step
    assert images.looks == 2
    assert list(tmp_path.iterdir()) == []
