# SPDX-License-Identifier: Apache-2.0
"""Where the compiled parts lie: the wrapper, the page library, the BPF sources and the simulated GPU."""

from __future__ import annotations

import os
from pathlib import Path

from convgpu.errors import EnvironmentMissingError

LIBRARY_NAME = "libconvgpu.so"
"""The library that is preloaded."""
_PACKAGE_DIR = Path(__file__).parent


def native_dir() -> Path:
    """Return the folder that the build installed beside this package.

    `CONVGPU_NATIVE_DIR` names another one, for development builds.

    Raises:
        EnvironmentMissingError: There is none: this is a source tree that was never built.
    """
    override = os.environ.get("CONVGPU_NATIVE_DIR")
    folder = Path(override) if override else _PACKAGE_DIR / "_native"
    if not (folder / "include" / "convgpu_abi.h").is_file():
        raise EnvironmentMissingError(
            f"the compiled parts of ConvGPU are not in {folder}",
            next_step="install the package (`pip install .`), or run `tools/setup`",
        )
    return folder
