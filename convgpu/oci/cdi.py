# SPDX-License-Identifier: Apache-2.0
"""A CDI specification: ConvGPU as a device that an engine gives to a container.

CDI (Container Device Interface); Podman, containerd and CRI-O read it, Docker from 25 on as an experiment
and from 28.3 on by itself. It is one static file: mounts, and a hook that refuses what a static file cannot do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convgpu.oci import targets
from convgpu.oci.shim import HOOK

KIND: Final = "convgpu.dev/guard"
DEVICE: Final = "default"
VERSION: Final = "0.5.0"
"""The oldest version that has all that is used here (cdi/SPEC.md): old engines refuse newer ones."""
_OPTIONS: Final = ("ro", "nosuid", "nodev", "rbind", "rprivate")


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiFiles:
    """The files of the host that a container gets, and the program of the hook."""

    library: Path
    preload: Path
    client_dir: Path
    hook: Path


def specification(files: CdiFiles) -> dict[str, Any]:
    """Return the specification, to be written as JSON.

    The hook's environment is given, though it is empty: a variable of the engine's must not reach it.
    """
    mounts = [
        (files.library, targets.LIBRARY_ASIDE),
        (files.preload, targets.PRELOAD),
        (files.client_dir, targets.CLIENT),
    ]
    return {
        "cdiVersion": VERSION,
        "kind": KIND,
        "devices": [
            {
                "name": DEVICE,
                "containerEdits": {
                    "mounts": [
                        {"hostPath": str(source), "containerPath": target, "options": list(_OPTIONS)}
                        for source, target in mounts
                    ],
                    "hooks": [
                        {
                            "hookName": "createRuntime",
                            "path": str(files.hook),
                            "args": [files.hook.name, HOOK],
                            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                        }
                    ],
                },
            }
        ],
    }


def text_of(specification: Mapping[str, Any]) -> str:
    """Write it as a file."""
    return json.dumps(specification, indent=2) + "\n"
