# SPDX-License-Identifier: Apache-2.0
"""A container's file is opened as what it really is, and never leads out of the container."""

from __future__ import annotations

import os
import shutil

import pytest

from convgpu.sources.container_file import open_file

LIBRARY = "usr/lib/libcudart.so.12"


class Container:
    """A process 42 whose root is a folder, described as an overlay of three layers."""

    def __init__(self, folder):
        self.proc = folder / "proc"
        self.upper, self.lower, self.bottom = (folder / name for name in ("up,per", "lower", "bottom"))
        self.root = folder / "merged"
        (self.proc / "42").mkdir(parents=True)
        for layer in (self.upper, self.lower, self.bottom, self.root):
            (layer / "usr/lib").mkdir(parents=True)
        (self.proc / "42" / "root").symlink_to(self.root)
        upper = str(self.upper).replace(",", "\\,")
        options = f"rw,lowerdir={self.lower}:{self.bottom},upperdir={upper},workdir={folder}/work"
        (self.proc / "42" / "mountinfo").write_text(
            "20 1 0:5 / /proc rw - proc proc rw\n"
            f"21 1 0:50 / / rw,relatime - overlay overlay {options}\n"
            "22 21 8:1 /data /data rw - ext4 /dev/sda1 rw\n"
        )

    def show(self, layer):
        """The overlay shows the file of one layer: the same bytes and times, another inode."""
        (self.root / LIBRARY).unlink(missing_ok=True)
        shutil.copy2(layer / LIBRARY, self.root / LIBRARY)

    def opened(self, path=LIBRARY):
        opened = open_file(f"{self.proc}/42/root/{path}", self.proc)
        status = os.fstat(opened.descriptor)
        os.close(opened.descriptor)
        return status.st_ino, opened.path


@pytest.fixture
def container(tmp_path):
    container = Container(tmp_path)
    (container.bottom / LIBRARY).write_bytes(b"the image's library")
    container.show(container.bottom)
    return container


def test_a_file_of_an_image_layer_is_opened_there(container):
    real = container.bottom / LIBRARY
    assert container.opened() == (real.stat().st_ino, str(real))


def test_after_a_change_it_is_the_containers_own_file(container):
    (container.upper / LIBRARY).write_bytes(b"changed")
    container.show(container.upper)
    assert container.opened()[0] == (container.upper / LIBRARY).stat().st_ino


def test_a_layer_that_does_not_fit_what_is_seen_is_not_believed(container):
    (container.root / LIBRARY).write_bytes(b"something else")
    assert container.opened()[0] == (container.root / LIBRARY).stat().st_ino


def test_a_file_of_another_mount_is_opened_as_it_is_seen(container):
    (container.root / "data").mkdir()
    (container.root / "data" / "libcudart.so").write_bytes(b"on a volume")
    (container.bottom / "data").mkdir()
    (container.bottom / "data" / "libcudart.so").write_bytes(b"hidden by it")
    assert container.opened("data/libcudart.so")[0] == (container.root / "data" / "libcudart.so").stat().st_ino


def test_a_link_stays_inside_the_container(container, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    (container.root / LIBRARY).unlink()
    (container.root / LIBRARY).symlink_to(secret)
    with pytest.raises(FileNotFoundError):
        container.opened()
    (container.root / "usr/lib/real").write_text("of the container")
    (container.root / LIBRARY).unlink()
    (container.root / LIBRARY).symlink_to("/usr/lib/real")
    assert container.opened()[0] == (container.root / "usr/lib/real").stat().st_ino


def test_a_link_with_which_a_layer_leads_out_is_not_followed_there(container, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy2(container.bottom / LIBRARY, outside / "libcudart.so.12")
    shutil.rmtree(container.upper / "usr/lib")
    (container.upper / "usr/lib").symlink_to(outside)
    assert container.opened()[0] == (container.bottom / LIBRARY).stat().st_ino


def test_a_file_of_the_host_is_opened_as_it_is(tmp_path):
    (tmp_path / "file").write_text("plain")
    opened = open_file(str(tmp_path / "file"), tmp_path / "proc")
    os.close(opened.descriptor)
    assert opened.path == str(tmp_path / "file")
