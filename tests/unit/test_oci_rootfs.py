# SPDX-License-Identifier: Apache-2.0
"""Looking into a container's root file system, which may be made to mislead."""

from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.oci import rootfs


@pytest.fixture
def root(tmp_path):
    (tmp_path / "secret").write_text("the host's own")
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "usr" / "lib").mkdir(parents=True)
    return folder


def test_a_file_is_read_and_a_missing_one_is_none(root):
    (root / "etc" / "ld.so.preload").write_bytes(b"/lib/a.so\n")
    assert rootfs.read(str(root), "/etc/ld.so.preload") == b"/lib/a.so\n"
    assert rootfs.read(str(root), "/etc/other") is None
    assert rootfs.read(str(root), "/etc") is None


@pytest.mark.parametrize("target", ["{host}/secret", "../../secret", "../../../../../../{host}/secret"])
def test_no_link_leads_out_of_the_container(root, tmp_path, target):
    (root / "etc" / "ld.so.preload").symlink_to(target.format(host=tmp_path))
    assert rootfs.read(str(root), "/etc/ld.so.preload") is None
    inside = root / str(tmp_path).lstrip("/")
    inside.mkdir(parents=True)
    (inside / "secret").write_bytes(b"the container's")
    (root / "secret").write_bytes(b"the container's")
    assert rootfs.read(str(root), "/etc/ld.so.preload") == b"the container's"


def test_links_to_folders_are_followed_as_the_container_sees_them(root):
    (root / "lib").symlink_to("/usr/lib")
    (root / "usr" / "lib" / "x").write_bytes(b"x")
    assert rootfs.read(str(root), "/lib/x") == b"x"
    assert rootfs.has(str(root), "/lib/../lib/x")


def test_a_ring_of_links_ends(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("/a")
    assert not rootfs.has(str(root), "/a")


@pytest.mark.parametrize(
    ("files", "musl"),
    [
        ((), False),
        (("lib/ld-musl-x86_64.so.1",), True),
        (("lib64/ld-linux-x86-64.so.2",), False),
        (("lib/ld-musl-x86_64.so.1", "lib64/ld-linux-x86-64.so.2"), False),
        (("lib/ld-musl-x86_64.so.1", "lib64/ld-linux-x86-64.so.2", "lib/libgcompat.so.0"), True),
    ],
)
def test_what_is_musl(root, files, musl):
    for name in files:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    assert rootfs.is_musl(str(root)) is musl


def test_no_descriptor_is_left_open(root):
    (root / "lib").symlink_to("usr/lib")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        rootfs.has(str(root), "/lib/none")
        rootfs.read(str(root), "/lib/../etc/ld.so.preload")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
