# SPDX-License-Identifier: Apache-2.0
"""A daemon on fakes as a process of its own, with its signals: `serve.py FOLDER`; settings in FOLDER/config.toml."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from convgpu.config.layers import Given, Layers
from convgpu.daemon.service import Service
from convgpu.testing.containers import FakeContainerSource
from convgpu.testing.gpus import FakeGpuSource


async def main(folder: Path) -> None:
    given = {name: Given(folder / name.removesuffix("_dir")) for name in ("run_dir", "state_dir", "log_dir")}
    layers = Layers(folder / "config.toml", given={**given, "probes": Given("off")})
    await Service(layers, FakeContainerSource(), FakeGpuSource(), None).run()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main(Path(sys.argv[1])))
