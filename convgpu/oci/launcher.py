# SPDX-License-Identifier: Apache-2.0
"""The programs that Docker calls: the plugin of its command line, and the runtime `convgpu`.

The runtime loads Python only where there is something to do.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

from convgpu.oci.shim import PUBLISHED

PROGRAM_NAME: Final = "convgpu-runtime"
PLUGIN_NAME: Final = "docker-convgpu"
_TEXT: Final = """\
#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Written by `convgpu install`. An OCI runtime: adds ConvGPU's mounts when a container is created, and leaves the rest
# to the next runtime. An engine calls it several times for each container; only a creation is worth starting Python.
creating=
for word; do
    case $word in create | run | hook | checkpoint | restore) creating=1 ;; esac
done
if [ -z "$creating" ]; then
    while IFS='=' read -r name value; do
        [ "$name" = next ] && exec "$value" "$@"
    done <{published}
fi
# Isolated: no environment variable and no other package can change what runs here as root.
exec {python} -I -S -c 'import sys
sys.path.append(sys.argv[1])
from convgpu.oci.shim import main
main(sys.argv[2], sys.argv[3:])' {package} {state} "$@"
"""
_PLUGIN_TEXT: Final = """\
#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Written by `convgpu install`, removed by `convgpu uninstall`. A plugin of Docker's command line: `docker convgpu` is
# `convgpu`.
exec {python} -P -m convgpu.cli.plugin "$@"
"""


def launcher_text(state_dir: Path) -> str:
    """Return the program: a shell script that starts this very installation.

    Args:
        state_dir: The daemon's state folder, where it publishes what the shim goes by.
    """
    package = Path(__file__).resolve().parents[2]
    return _TEXT.format(
        published=shlex.quote(str(state_dir / PUBLISHED)),
        python=shlex.quote(sys.executable),
        package=shlex.quote(str(package)),
        state=shlex.quote(str(state_dir)),
    )


def plugin_text() -> str:
    """Return the plugin of Docker's command line: a shell script that starts this very installation."""
    return _PLUGIN_TEXT.format(python=shlex.quote(sys.executable))
