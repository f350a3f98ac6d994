# SPDX-License-Identifier: Apache-2.0
"""Which files can be watched, and that one file is never counted twice."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from convgpu.sources.ebpf import BpfWitness

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def witness(header_cache, bpf_dir):
    """One that has no library yet."""
    witness = BpfWitness(bpf_dir, cache_dir=header_cache)
    witness.start()
    yield witness
    witness.close()


TRACEPOINTS = 5


def runtime_counts(witness, pid):
    return [(b.runtime_allocations, b.runtime_frees) for b in witness.balances() if b.pid == pid]


def test_the_same_inode_is_attached_once(witness, program, cuda_library, tmp_path):
    link = tmp_path / "link.so"
    link.symlink_to(cuda_library)
    hard_link = cuda_library.with_name("hard_link.so")
    hard_link.hardlink_to(cuda_library)
    assert witness.attach_library(str(cuda_library), "libcudart")
    attached = witness.status().attached
    for path in (cuda_library, link, hard_link):
        assert witness.attach_library(str(path), "libcudart")
    assert witness.status().attached == attached
    child = program()
    child.tell("runtime 7 5 4096")
    assert runtime_counts(witness, child.pid) == [(7, 5)]


def test_one_file_seen_through_two_mounts_is_not_counted_twice(witness, watch, program, cuda_library, tmp_path):
    merged = tmp_path / "merged"
    for name in ("merged", "upper", "work"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={cuda_library.parent},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no overlay file system here")
    try:
        watcher = watch(witness)
        for path in (cuda_library, merged / cuda_library.name):
            assert witness.attach_library(str(path), "libcudart")
        assert len(witness.status().attached) == TRACEPOINTS + 2
        child = program(env={"LD_LIBRARY_PATH": str(merged)})
        child.tell("runtime 7 5 4096")
        assert runtime_counts(witness, child.pid) == [(7, 5)]
        watcher.expect_losses()
    finally:
        subprocess.run(["umount", "--lazy", str(merged)], check=True)


@pytest.mark.parametrize("layout", ["separate-code", "noseparate-code"])  # the latter lets offset 0 be executable
def test_an_import_is_not_a_definition(witness, compile_program, layout):
    program = compile_program(f"importing_{layout}", f"-Wl,-z,{layout}")
    assert not witness.attach_library(str(program), "libcudart")
    assert len(witness.status().attached) == TRACEPOINTS
    assert any("cudaMalloc: not defined in this file" in line for line in witness.status().missing)


def test_a_static_executable_is_watched_from_its_symbols(witness, program, static_program):
    assert witness.attach_library(str(static_program), "libcudart")
    child = program(static_program)
    child.tell("runtime 11 3 4096")
    assert runtime_counts(witness, child.pid) == [(11, 3)]


def test_a_stripped_executable_is_reported(witness, static_program, tmp_path):
    stripped = tmp_path / "stripped"
    shutil.copy(static_program, stripped)
    subprocess.run(["strip", str(stripped)], check=True)
    assert not witness.attach_library(str(stripped), "libcudart")
    assert any(line.startswith(f"{stripped}: cudaMalloc: not defined") for line in witness.status().missing)


def test_a_process_that_runs_already_is_seen_from_now_on(witness, program, cuda_library):
    child = program()
    child.tell("runtime 3 0 4096")
    assert witness.attach_library(str(cuda_library), "libcudart")
    child.tell("runtime 5 0 4096")
    assert runtime_counts(witness, child.pid) == [(5, 0)]


def test_what_cannot_be_watched_says_why(witness, tmp_path):
    text = tmp_path / "text"
    text.write_text("not an ELF file, but longer than its header would be, which is 64 bytes")
    short = tmp_path / "short"
    short.write_bytes(b"\x7fELF")
    cut = tmp_path / "cut"
    cut.write_bytes(Path("/bin/sh").read_bytes()[:4096])
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reasons = {
        text: "not a 64-bit little-endian ELF file",
        short: "not an ELF file",
        cut: "damaged ELF file",
        fifo: "not a regular file",
        tmp_path: "not a regular file",
        tmp_path / "none": "No such file or directory",
    }
    for path, reason in reasons.items():
        assert not witness.attach_library(str(path), "libcuda")
        assert any(line.startswith(f"{path}: {reason}") for line in witness.status().missing), path


@pytest.mark.parametrize("options", [{"probes": "physical"}, {"return_probes": False}])
def test_libraries_are_left_alone_where_that_is_asked(header_cache, bpf_dir, cuda_library, program, options):
    witness = BpfWitness(bpf_dir, cache_dir=header_cache, **options)
    witness.start()
    try:
        assert not witness.attach_library(str(cuda_library), "libcudart")
        child = program()
        child.tell("runtime 3 0 4096")
        assert runtime_counts(witness, child.pid) == []
        assert any(line.startswith(f"{cuda_library}: not probed") for line in witness.status().missing)
    finally:
        witness.close()
