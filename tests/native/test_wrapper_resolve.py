# SPDX-License-Identifier: Apache-2.0
"""The library as such, and every way in which a program comes to the address of a driver call."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_process import API_MEM_ALLOC, CONTEXT_BYTES, MIB, ROOT, Build, Program

# ---- The library itself ----


def test_needs_no_symbol_newer_than_glibc_2_17(build: Build) -> None:
    symbols = subprocess.run(["objdump", "-T", build.wrapper], check=True, capture_output=True, text=True).stdout
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", symbols)}
    assert versions
    assert max(versions) <= (2, 17)


def test_the_build_fails_on_a_newer_symbol(build: Build, tmp_path: Path) -> None:
    source, library = tmp_path / "newer.c", tmp_path / "newer.so"
    source.write_text('#include <dlfcn.h>\nvoid *f(void) { return dlsym(0, "x"); }\n')
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    symbols = subprocess.run(["objdump", "-T", library], check=True, capture_output=True, text=True).stdout
    if "GLIBC_2.34" not in symbols:
        pytest.skip("this machine's glibc has dlsym at an old version: nothing newer to link")
    script = [f"-DLIBRARY={library}", "-DOBJDUMP=objdump", "-DNEWEST=2.17", "-P", ROOT / "wrapper/check_glibc.cmake"]
    checked = subprocess.run(["cmake", *script], check=False, capture_output=True, text=True)
    assert checked.returncode != 0
    assert "dlsym" in checked.stderr


def test_exports_the_hooks_and_nothing_else(build: Build) -> None:
    names = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", build.wrapper], check=True, capture_output=True, text=True
    ).stdout
    exported = {line.split()[0] for line in names.splitlines()}
    listed = set(
        re.findall(r"^CVG_(?:HOOK|NVML)\((\w+),", (ROOT / "wrapper/symbols.def").read_text(), flags=re.MULTILINE)
    )
    assert exported == listed | {"dlopen", "dlsym", "dlvsym", "ioctl", "close", "dup2", "dup3"}


def test_is_small(build: Build) -> None:
    assert build.wrapper.stat().st_size < 150 * 1024


# ---- Resolution ----


@pytest.mark.parametrize("mode", ["dlsym", "dlvsym", "proc1", "proc2", "default", "next"])
def test_every_way_of_resolving_leads_to_the_hook(start: Any, daemon: FakeDaemon, mode: str) -> None:
    program = start()
    assert program.do("resolve", mode) == ["0", "libconvgpu.so"]
    assert program.do("init", 0) == ["0"]
    assert program.do("retain", 0) == ["0"]
    program.alloc(8 * MIB)
    assert daemon.account().used == CONTEXT_BYTES + 8 * MIB
    assert any(message.api == API_MEM_ALLOC for message in daemon.asked())


@pytest.mark.parametrize("mode", ["dlsym", "dlvsym", "proc1", "proc2", "default", "next"])
def test_without_the_wrapper_the_same_ways_lead_to_libcuda(build: Build, mode: str) -> None:
    program = Program(build, None)
    assert program.do("resolve", mode) == ["0", "libcuda.so.1"]
    program.end()


def test_a_linked_program_is_hooked(start: Any, daemon: FakeDaemon) -> None:
    program = start("linked").ready()
    program.alloc(8 * MIB)
    assert daemon.account().used == CONTEXT_BYTES + 8 * MIB


@pytest.mark.parametrize("wrapped", [True, False])
def test_lookups_relative_to_the_caller_are_undisturbed(build: Build, daemon: FakeDaemon, wrapped: bool) -> None:
    program = Program(build, daemon.path if wrapped else None)
    assert program.do("order") == ["21"]
    program.end()


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_symbol_that_libcuda_lacks_stays_missing(build: Build, daemon: FakeDaemon, wrapped: bool) -> None:
    program = Program(build, daemon.path if wrapped else None)
    missing, found, failed, clean = "0", "1", "1", "0"
    assert program.do("default", "cuMemAlloc_v2") == [missing, failed]  # libcuda is not loaded yet
    assert program.do("resolve", "default")[0] == "0"
    assert program.do("dlsym", "cuCtxCreate_v4") == [missing, failed]
    assert program.do("default", "cuCtxCreate_v4") == [missing, failed]
    assert program.do("default", "cuMemAlloc_v2") == [found, clean]
    assert program.do("dlsym", "cuMemAlloc_v2") == [found, clean]
    program.end()


def test_a_driver_of_local_scope_leaves_no_error_behind(start: Any) -> None:
    program = start()
    assert program.do("resolve", "dlsym")[0] == "0"
    assert program.do("default", "cuMemAlloc_v2")[1] == "0"
