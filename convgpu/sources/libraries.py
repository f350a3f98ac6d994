# SPDX-License-Identifier: Apache-2.0
"""Where the CUDA libraries lie: the driver's on the host, the runtimes that a process has mapped."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from convgpu.sources.elf import ElfError, find_functions
from convgpu.sources.procfs import PROC

DRIVER_NAME: Final = "libcuda.so.1"
_RUNTIME_NAME: Final = re.compile(r"libcudart[.\-][^/]*so[^/]*|libcudart\.so[^/]*")
_RUNTIME_FUNCTION: Final = "cudaMalloc"
_DEFINING: Final[dict[tuple[int, int, int, str], bool]] = {}
_DEFINING_KEPT: Final = 4096
_DRIVER_FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
)


def find_driver(proc: Path = PROC) -> Path | None:
    """Return the host's libcuda, or None.

    It lies beside the NVML library that this process has loaded; failing that, where the linker or habit says.
    """
    folders = [path.parent for path in _mapped_files(os.getpid(), proc) if path.name.startswith("libnvidia-ml.so")]
    folders += [path.parent for path in _linker_cache(DRIVER_NAME)]
    folders += [Path(folder) for folder in _DRIVER_FOLDERS]
    for folder in folders:
        if (folder / DRIVER_NAME).exists():
            return (folder / DRIVER_NAME).resolve()
    return None


def runtimes_of(pid: int, proc: Path = PROC) -> tuple[Path, ...]:
    """Return paths, valid on the host, of what may hold a CUDA runtime in a process.

    These are every mapped libcudart, and the program itself where the runtime is linked into it and its symbols were
    not stripped; a stripped one is seen at libcuda and at the boundary all the same.
    """
    root = proc / str(pid) / "root"
    found = [root / path.relative_to("/") for path in _mapped_files(pid, proc) if _RUNTIME_NAME.fullmatch(path.name)]
    program = proc / str(pid) / "exe"
    if _defines(program, _RUNTIME_FUNCTION):
        found.append(program)
    return tuple(dict.fromkeys(found))


def _defines(path: Path, function: str) -> bool:
    """Tell whether a program defines a function; anything that cannot be read defines none."""
    try:
        with path.open("rb") as program:
            status = os.fstat(program.fileno())
            # Hundreds of processes run the same few programs, and some of these are hundreds of megabytes.
            identity = (status.st_dev, status.st_ino, status.st_mtime_ns, function)
            if identity not in _DEFINING:
                while len(_DEFINING) >= _DEFINING_KEPT:
                    del _DEFINING[next(iter(_DEFINING))]
                _DEFINING[identity] = bool(find_functions(program.fileno(), (function,)))
            return _DEFINING[identity]
    except (OSError, ElfError):
        return False


def driver_of(pid: int, proc: Path = PROC) -> tuple[Path, ...]:
    """Return paths, valid on the host, of the libcuda that a process has mapped."""
    root = proc / str(pid) / "root"
    found = [root / path.relative_to("/") for path in _mapped_files(pid, proc) if path.name.startswith("libcuda.so")]
    return tuple(dict.fromkeys(found))


def code_of(pid: int, path: str, proc: Path = PROC) -> tuple[int, int] | None:
    """Return where a process has the code of a mapped file: first address, and the one after the last.

    Args:
        pid: The process.
        path: As the process sees it.
        proc: Where procfs is mounted.
    """
    begin, end = 0, 0
    try:
        lines = (proc / str(pid) / "maps").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == path and "x" in fields[1]:
            first, _, last = fields[0].partition("-")
            begin, end = begin or int(first, 16), int(last, 16)
    return (begin, end) if end else None


def _mapped_files(pid: int, proc: Path) -> list[Path]:
    try:
        lines = (proc / str(pid) / "maps").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    paths = (line.split(maxsplit=5)[5] for line in lines if line.count("/") and len(line.split(maxsplit=5)) == 6)
    return [Path(text) for text in dict.fromkeys(paths) if text.startswith("/")]


def _linker_cache(name: str) -> list[Path]:
    try:
        listing = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(line.rpartition("=> ")[2]) for line in listing.splitlines() if line.strip().startswith(name + " ")]
