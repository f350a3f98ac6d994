# SPDX-License-Identifier: Apache-2.0
"""Checks of ConvGPU's own parts: the preloaded library and the daemon."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from convgpu import __version__
from convgpu.api import Client
from convgpu.core.units import format_size
from convgpu.doctor.finding import Machine, Verdict
from convgpu.errors import ConvgpuError, DaemonUnavailableError, EnvironmentMissingError
from convgpu.native import native_dir

_VERSION_DEFINE: Final = re.compile(r"^#define\s+CVG_ABI_VERSION\s+(\d+)", re.MULTILINE)
_PAGE_BYTES_DEFINE: Final = re.compile(r"^#define\s+CVG_PAGE_BYTES\s+(\d+)", re.MULTILINE)
_REBUILD: Final = "install the package again (`pip install --force-reinstall .`), or run `sudo tools/setup`"
_TRIAL_TIMEOUT_S: Final = 10


def wrapper(_: Machine) -> Verdict:
    """Preload the library into a program, and compare the layout that each part was built with."""
    try:
        folder = native_dir()
    except EnvironmentMissingError as error:
        return Verdict("fail", error.message, error.advice)
    library = folder / "libconvgpu.so"
    if not library.is_file():
        return Verdict("fail", f"there is no {library}", _REBUILD)
    complaint = _preload_complaint(library)
    if complaint:
        return Verdict("fail", f"{library} cannot be preloaded: {complaint}", _REBUILD)
    header = (folder / "include" / "convgpu_abi.h").read_text()
    stated = _VERSION_DEFINE.search(header)
    page_bytes = _PAGE_BYTES_DEFINE.search(header)
    if stated is None or page_bytes is None:
        return Verdict("fail", "convgpu_abi.h does not state CVG_ABI_VERSION and CVG_PAGE_BYTES", _REBUILD)
    built = page_abi_version(folder / "libconvgpu-page.so", int(page_bytes.group(1)))
    if built != int(stated.group(1)):
        return Verdict("fail", f"the page library has ABI {built}, the header {stated.group(1)}", _REBUILD)
    return Verdict("ok", f"{library}, ABI {built}")


def page_size(_: Machine) -> Verdict:
    """Compare the kernel's pages with the credit page, a file that daemon and wrapper both map."""
    try:
        header = (native_dir() / "include" / "convgpu_abi.h").read_text()
    except EnvironmentMissingError as error:
        return Verdict("fail", error.message, error.advice)
    stated = _PAGE_BYTES_DEFINE.search(header)
    if stated is None:
        return Verdict("fail", "convgpu_abi.h does not state CVG_PAGE_BYTES", _REBUILD)
    return judge_page_size(os.sysconf("SC_PAGE_SIZE"), int(stated.group(1)))


def judge_page_size(kernel_bytes: int, credit_bytes: int) -> Verdict:
    """Judge whether a mapping of the kernel's pages holds a whole credit page."""
    detail = f"pages of {format_size(kernel_bytes)}, a credit page has {format_size(credit_bytes)}"
    if kernel_bytes % credit_bytes:
        return Verdict("fail", f"{detail}: that does not fit", "use a kernel with pages of 4, 16 or 64 KiB")
    return Verdict("ok", detail)


def page_abi_version(library: Path, page_bytes: int) -> int:
    """Return the ABI that the page library was built with: it writes it into every page that it makes."""
    page = ctypes.create_string_buffer(page_bytes)
    init = ctypes.CDLL(str(library)).cvg_page_init
    init.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int32, ctypes.c_uint64]
    init.restype = None
    init(ctypes.byref(page), 1, os.getpid(), 1)
    # struct cvg_page: magic, then abi_version, both uint32_t.
    return int.from_bytes(page.raw[4:8], "little")


def _preload_complaint(library: Path) -> str:
    """Return what the dynamic linker says when a program starts with the library; it says nothing when all is well."""
    trial = subprocess.run(
        ["true"],
        env={"LD_PRELOAD": str(library), "PATH": os.environ.get("PATH", os.defpath)},
        capture_output=True,
        text=True,
        timeout=_TRIAL_TIMEOUT_S,
        check=False,
    )
    said = trial.stderr.strip()
    return said or ("" if trial.returncode == 0 else f"the program ended with status {trial.returncode}")


def daemon(machine: Machine) -> Verdict:
    """Ask the daemon for a snapshot."""
    try:
        with Client(machine.paths.control_socket) as client:
            snapshot = client.snapshot()
    except DaemonUnavailableError as error:
        return Verdict("warn", error.message, error.advice)
    except ConvgpuError as error:
        return Verdict("fail", error.message, error.advice)
    detail = f"version {snapshot.version}, {len(snapshot.gpus)} GPU(s), {len(snapshot.containers)} container(s)"
    if snapshot.version != __version__:
        return Verdict("warn", f"{detail}; this command is {__version__}", "restart the daemon")
    if not snapshot.witness.running:
        return Verdict("warn", f"{detail}; no witness: {snapshot.witness.reason}", "see the findings above")
    return Verdict("ok", detail)
