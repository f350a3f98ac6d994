# SPDX-License-Identifier: Apache-2.0
"""What a test may need of the machine, checked once, and skipped loudly where it is missing.

With CONVGPU_REQUIRE_PRIVILEGED=1 (CI) a missing privilege is a failure, not a skip: a green run then means that the
privileged tests really ran.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

_PRIVILEGED = ("root", "bpf", "docker", "fuse")


@cache
def _why_no_root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


@cache
def _why_no_bpf() -> str | None:
    if _why_no_root():
        return "BPF programs need root"
    from convgpu.errors import ConvgpuError
    from convgpu.sources.bcc import load_bcc

    try:
        load_bcc()
    except ConvgpuError as error:
        return error.message
    return None


@cache
def _why_no_docker() -> str | None:
    if shutil.which("docker") is None:
        return "no docker command"
    answer = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30)
    return None if answer.returncode == 0 else "no Docker engine answers"


@cache
def _why_no_fuse() -> str | None:
    if not Path("/dev/fuse").exists():
        return "no /dev/fuse"
    from convgpu.errors import ConvgpuError
    from convgpu.native import native_dir

    try:
        server = native_dir() / "simgpu" / "simgpu-rm"
    except ConvgpuError as error:
        return error.message
    return None if server.exists() else "the simulated GPU was not built"


@cache
def _why_no_gpu() -> str | None:
    return None if Path("/dev/nvidiactl").exists() else "no NVIDIA GPU"


_CHECKS: dict[str, Callable[[], str | None]] = {
    "root": _why_no_root,
    "bpf": _why_no_bpf,
    "docker": _why_no_docker,
    "fuse": _why_no_fuse,
    "gpu": _why_no_gpu,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, why_not in _CHECKS.items():
        if item.get_closest_marker(name) is None:
            continue
        reason = why_not()
        if reason is None:
            continue
        if name in _PRIVILEGED and os.environ.get("CONVGPU_REQUIRE_PRIVILEGED") == "1":
            pytest.fail(f"needs {name}, and privileged tests are required here: {reason}", pytrace=False)
        pytest.skip(f"needs {name}: {reason}")
