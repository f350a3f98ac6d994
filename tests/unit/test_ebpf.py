# SPDX-License-Identifier: Apache-2.0
"""What the witness decides without a kernel: versions, words, ends of processes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.bpf_events import has_ended
from convgpu.sources.bpf_source import read_source
from convgpu.sources.ebpf import kernel_version, return_probes_are_safe
from convgpu.sources.witness import EventKind, EventSource

BPF_DIR = Path(__file__).parents[2] / "bpf"


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-56-amd64", (6, 1)),
        ("6.18.44", (6, 18)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15)),
        ("odd", (0, 0)),
    ],
)
def test_kernel_versions(release, version):
    assert kernel_version(release) == version


@pytest.mark.parametrize("release", ["6.11.0-9-generic", "6.12.3", "6.13.12-200.fc41.x86_64"])
def test_return_probes_are_left_out_where_they_kill(release):
    assert not return_probes_are_safe(release, "x86_64")
    assert return_probes_are_safe(release, "aarch64")


@pytest.mark.parametrize("release", ["5.15.0", "6.1.0-56-amd64", "6.10.14", "6.14.0", "6.18.44", "7.11.0"])
def test_return_probes_are_used_elsewhere(release):
    assert return_probes_are_safe(release, "x86_64")


def test_the_words_of_the_programs_are_those_of_python():
    source = read_source(BPF_DIR)
    assert source.sources == get_args(EventSource)
    assert source.kinds == get_args(EventKind)
    assert source.symbols == {"libcuda": ("cuMemAlloc_v2", "cuMemFree_v2"), "libcudart": ("cudaMalloc", "cudaFree")}
    assert len(source.losses) == len(set(source.losses)) == 14


def test_every_loss_is_explained():
    text = (BPF_DIR / "README.md").read_text()
    assert [name for name in read_source(BPF_DIR).losses if f"`{name}`" not in text] == []


def test_missing_sources_are_told(tmp_path):
    with pytest.raises(EnvironmentMissingError, match="sources of the eBPF programs"):
        read_source(tmp_path)


def process(proc, pid, **states):
    for tid, state in states.items():
        folder = proc / str(pid) / "task" / tid.removeprefix("t")
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (a ) Z b) {state} 1 2 3")


def test_a_process_has_ended_when_its_last_thread_has(tmp_path):
    process(tmp_path, 10, t10="S", t11="R")
    process(tmp_path, 20, t20="Z", t21="S")  # its first thread only
    process(tmp_path, 30, t30="Z")
    process(tmp_path, 40, t40="Z", t41="X")
    assert [pid for pid in (10, 20, 30, 40, 50) if has_ended(pid, tmp_path)] == [30, 40, 50]
