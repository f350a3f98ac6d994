# SPDX-License-Identifier: Apache-2.0
"""Checkpoints (CRIU) of guarded containers are refused, before anything is frozen.

A checkpoint would hold neither the memory of the GPU nor the connection to the daemon, and who is restored from one has
the credit page of a process that is no more.
"""

from __future__ import annotations

import json
import subprocess

from convgpu.errors import UsageError
from convgpu.oci.bundle import EngineRecord, has_mounts, read_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_REASON = "neither its GPU's memory nor its account with ConvGPU would be in it; stop the container and start it again"


def refuse_checkpoint(next_runtime: str, global_options: Sequence[str], container: str) -> None:
    """Refuse where the container is guarded.

    Args:
        next_runtime: Knows where the container's bundle is.
        global_options: What the engine gave the runtime before its command: among it, where it keeps its state.
        container: Its id.

    Raises:
        UsageError: It is guarded.
        OSError, ValueError: Nobody can say; the next runtime is not asked then either.
        subprocess.CalledProcessError: The next runtime does not know the container.
    """
    told = subprocess.run(
        [next_runtime, *global_options, "state", container], capture_output=True, text=True, check=True
    ).stdout
    if has_mounts(read_config(json.loads(told)["bundle"])):
        raise UsageError(f"checkpoint: a container that ConvGPU guards cannot have one: {_REASON}")


def refuse_restore(container: str, bundle: str, settings: Mapping[str, str]) -> None:
    """Refuse where the container would be guarded if it started afresh: its checkpoint is from before, without a limit.

    Raises:
        UsageError: It is to be guarded.
        OSError, ValueError: The bundle is not readable.
    """
    config = read_config(bundle)
    if has_mounts(config) or EngineRecord(container, config).is_to_be_guarded(settings):
        raise UsageError(f"restore: a container that ConvGPU guards cannot be restored: {_REASON}")
