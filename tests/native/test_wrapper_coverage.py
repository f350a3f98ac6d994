# SPDX-License-Identifier: Apache-2.0
"""Every call of a libcuda that looks like it takes memory is in symbols.def, with what becomes of it."""

from __future__ import annotations

import ctypes.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wrapper_process import ROOT, SOURCES

LOOKS_LIKE_MEMORY = re.compile(
    r"Alloc|Create|Import|Export.*Handle|Load|Pool|Map|Register|Instantiate|Upload|SetLimit|Retain|IpcOpen|Launch"
    r"|Prefetch|TotalMem|MemGetInfo|AddNode|AddMem|GraphClone|ExecUpdate|Multicast|MemAddressReserve|EGL.*Connect"
)
NOT_MEMORY = re.compile(
    r"Unload|GetMemoryRequirements|Enumerate|CtxGetId|AttachMem|SparseProperties|PrimaryCtxSetFlags"
)


def known_names() -> set[str]:
    definitions = (ROOT / "wrapper" / "symbols.def").read_text()
    return set(re.findall(r"^CVG_(?:HOOK|CALL|IGNORE)\((\w+)", definitions, flags=re.MULTILINE))


def unclassified(names: set[str]) -> set[str]:
    looking = {name for name in names if LOOKS_LIKE_MEMORY.search(name) and not NOT_MEMORY.search(name)}
    return looking - known_names()


def test_every_call_of_driver_580_is_classified() -> None:
    listed = (SOURCES / "libcuda_exports_580.txt").read_text().splitlines()
    names = {line for line in listed if line.startswith("cu")}
    assert len(names) > 150
    assert unclassified(names) == set()


def test_a_call_that_nobody_classified_is_noticed() -> None:
    assert unclassified({"cuMemAlloc_v9", "cuMemAlloc_v2", "cuCtxGetDevice"}) == {"cuMemAlloc_v9"}


def test_no_call_is_in_two_lists() -> None:
    definitions = (ROOT / "wrapper" / "symbols.def").read_text()
    names = re.findall(r"^CVG_(?:HOOK|CALL|IGNORE)\((\w+)", definitions, flags=re.MULTILINE)
    assert sorted(names) == sorted(set(names))


@pytest.mark.gpu
def test_every_call_of_the_driver_of_this_machine_is_classified() -> None:
    found = ctypes.util.find_library("cuda")
    paths = [
        path for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib") for path in Path(folder).rglob("libcuda.so.1")
    ]
    assert found or paths
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", paths[0]], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1].split("@")[0] for line in symbols.splitlines()}
    assert unclassified({name for name in names if re.match(r"cu[A-Z]", name)}) == set()


def test_the_page_about_hooked_calls_is_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "hooked_calls.py", "--check"], check=True)
