# SPDX-License-Identifier: Apache-2.0
"""What the witness decides without a kernel: versions, words, ends of processes."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import get_args

import pytest

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.bpf_source import read_source
from convgpu.sources.bpf_table import Layout, Row
from convgpu.sources.ebpf import kernel_version, return_probes_are_safe
from convgpu.sources.procfs import has_ended
from convgpu.sources.witness import HARMLESS_LOSSES, EventKind, EventSource, MemoryKind

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
    assert source.memories == get_args(MemoryKind)
    assert source.symbols("libcuda")[:2] == ("cuMemAlloc_v2", "cuMemFree_v2")
    assert source.symbols("libcudart")[:2] == ("cudaMalloc", "cudaFree")
    assert source.apis[:4] == ("", "RM_ALLOC", "RM_FREE", "cuMemAlloc_v2")
    assert source.apis[3:] == tuple(probe.symbol for probe in source.probes)
    assert len(source.losses) == len(set(source.losses)) == 20


def test_the_attach_list_is_that_of_symbols_def():
    definitions = (BPF_DIR.parent / "wrapper" / "symbols.def").read_text()
    lines = [line for line in definitions.splitlines() if line.startswith("CVG_PROBE(")]
    probes = read_source(BPF_DIR).probes
    assert [probe.symbol for probe in probes] == [line.split("(")[1].split(",")[0] for line in lines]
    assert len({probe.symbol for probe in probes}) == len(probes)


def test_whatever_the_wrapper_hooks_as_memory_is_watched():
    definitions = (BPF_DIR.parent / "wrapper" / "symbols.def").read_text()
    hooks = re.findall(r"^CVG_HOOK\((\w+), (\w+)", definitions, re.MULTILINE)
    watched = {probe.symbol for probe in read_source(BPF_DIR).probes}
    asynchronous = {name for name, kind in hooks if kind == "ASYNC" and name.startswith("cuMemAlloc")}
    known = {name for name, kind in hooks if kind in {"ALLOC", "END"}} | asynchronous
    assert known - watched == set()


def test_nothing_is_watched_that_is_called_as_often_as_launches():
    often = re.compile(r"Launch|SetCurrent|SetDevice|GetCurrent|Memcpy|Memset|Synchronize|GetAttribute|GetErrorString")
    assert [probe.symbol for probe in read_source(BPF_DIR).probes if often.search(probe.symbol)] == []


def test_line_numbers_of_the_compiler_are_those_of_the_files():
    text = read_source(BPF_DIR).text.decode()
    numbers = re.findall(r'^#line (\d+) "libraries.bpf.c"$', text, re.MULTILINE)
    lines = (BPF_DIR / "libraries.bpf.c").read_text().splitlines()
    for number in numbers[1:]:
        assert lines[int(number) - 2] == '#include "symbols.def"'


def test_every_loss_is_explained_and_those_that_bend_no_balance_are_the_harmless_ones():
    table = (BPF_DIR / "README.md").read_text().partition("## Losses")[2].partition("## ")[0]
    balances = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        for name in re.findall(r"`(\w+)`", cells[1]) if len(cells) == 5 else ():
            balances[name] = cells[3]
    assert balances.keys() == set(read_source(BPF_DIR).losses)
    exact = {name for name, words in balances.items() if words.startswith(("exact", "put right"))}
    assert exact == HARMLESS_LOSSES


def test_a_structure_within_a_structure_is_one_value_as_it_is_laid_out():
    class Inner(ctypes.Structure):
        _fields_ = (("at", ctypes.c_uint64), ("api", ctypes.c_uint32), ("kind", ctypes.c_uint16 * 2))

    class Outer(ctypes.Structure):
        _fields_ = (("first", Inner), ("second", Inner), ("last", ctypes.c_uint64))

    outer = Outer(Inner(1, 2, (3, 4)), Inner(5, 6, (7, 8)), 9)
    layout = Layout(Outer)
    row = Row(layout, layout.unpack_from(bytes(outer)))
    assert (row.first, row.second, row.last) == ((1, 2, 3, 4), (5, 6, 7, 8), 9)
    assert row.packed() == bytes(outer)


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
