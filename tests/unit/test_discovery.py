# SPDX-License-Identifier: Apache-2.0
"""Which libraries of a process are given to the witness, and when nobody has to wait for that."""

from __future__ import annotations

import pytest

from convgpu.daemon.discovery import Discovery
from convgpu.sources.bpf_libraries import CATCH_S
from convgpu.testing.witness import FakeWitness


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def proc(tmp_path):
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    for name in ("libcuda.so.1", "libcudart.so.12", "libc.so.6"):
        (root / "lib" / name).write_text(name)
    for pid in (42, 43):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "root").symlink_to(root)
        (tmp_path / "proc" / str(pid) / "comm").write_text("train\n")
    return tmp_path / "proc"


def maps(proc, pid, *names):
    lines = [f"7f00-7f01 r-xp 00000000 08:01 {index}      /lib/{name}\n" for index, name in enumerate(names)]
    (proc / str(pid) / "maps").write_text("".join(lines))


@pytest.fixture
def witness():
    witness = FakeWitness()
    witness.start()
    return witness


def test_driver_and_runtimes_are_watched_and_nothing_else(proc, witness):
    maps(proc, 42, "libc.so.6", "libcuda.so.1", "libcudart.so.12")
    discovery = Discovery(proc)
    found = discovery.find(42)
    inode = (proc / "42/root/lib/libcudart.so.12").stat().st_ino
    assert [(each.kind, each.inode) for each in found][1] == ("libcudart", inode)
    discovery.watch(witness, 42, found)
    assert witness.status().attached == tuple(
        f"{proc}/42/root/lib/{name}" for name in ("libcuda.so.1", "libcudart.so.12")
    )
    assert discovery.unseen() == ()


def test_a_second_process_waits_for_nobody_once_no_call_can_have_begun_before(proc, witness):
    for pid in (42, 43):
        maps(proc, pid, "libcuda.so.1", "libcudart.so.12")
    clock = Clock()
    discovery = Discovery(proc, clock)
    assert not discovery.is_settled(discovery.find(42))
    discovery.watch(witness, 42, discovery.find(42))
    assert not discovery.is_settled(discovery.find(43))
    clock.now_s += CATCH_S + 1
    assert discovery.is_settled(discovery.find(43))


def test_a_file_that_took_the_place_of_a_watched_one_is_not_settled(proc, witness):
    maps(proc, 42, "libcuda.so.1", "libcudart.so.12")
    clock = Clock()
    discovery = Discovery(proc, clock)
    discovery.watch(witness, 42, discovery.find(42))
    clock.now_s += CATCH_S + 1
    library = proc / "42/root/lib/libcudart.so.12"
    library.rename(library.with_name("old"))
    library.write_text("upgraded")
    assert not discovery.is_settled(discovery.find(42))


def test_a_process_whose_runtime_cannot_be_seen_is_named_until_it_ends(proc, witness):
    maps(proc, 42, "libcuda.so.1")
    discovery = Discovery(proc)
    discovery.watch(witness, 42, discovery.find(42))
    (line,) = discovery.unseen()
    assert line.startswith("train[42]: maps no CUDA runtime")
    assert not discovery.is_settled(discovery.find(42))
    discovery.forget([42])
    assert discovery.unseen() == ()


def test_a_process_that_is_gone_has_nothing(proc, witness):
    discovery = Discovery(proc)
    assert discovery.find(44) == []
    maps(proc, 43, "libcudart.so.12")
    (proc / "43/root/lib/libcudart.so.12").unlink()
    assert discovery.find(43) == []
