# SPDX-License-Identifier: Apache-2.0
"""A container on the command line: its name, its id or a prefix of that, completed from what the daemon knows.

A completion has to be there before one has lifted the finger from the key. So the daemon is asked for what costs it
nothing (`limit_list` measures nothing), without the typed client, and for a moment only.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from convgpu.paths import RunPaths, configured_run_dir

_PATIENCE_S: Final = 0.5
_ID_DIGITS: Final = 12


class ContainerName(click.ParamType[str]):
    """The name as it was written; the daemon finds the container."""

    name = "container"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the containers of the daemon that begin like this; none where it does not answer at once."""
        del param
        given = ctx.params.get("run_dir")
        paths = given if isinstance(given, RunPaths) else RunPaths(_run_dir())
        return [
            CompletionItem(word, help=about)
            for word, about in _known(paths.control_socket, ids=bool(incomplete))
            if word.startswith(incomplete)
        ]


def _run_dir() -> Path:
    named = os.environ.get("CONVGPU_RUN_DIR")
    return Path(named) if named else configured_run_dir()


def _known(control_socket: Path, *, ids: bool) -> Iterator[tuple[str, str]]:
    """Return names, and short ids to one who began to write something, each with what it is."""
    for container in _ask(control_socket):
        yield container["name"], container["container_id"][:_ID_DIGITS]
        if ids:
            yield container["container_id"][:_ID_DIGITS], container["name"]


def _ask(control_socket: Path) -> list[dict[str, Any]]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(str(control_socket))
            connection.sendall(b'{"id": 1, "op": "limit_list", "args": {}}\n')
            with connection.makefile("rb") as answers:
                found = json.loads(answers.readline()).get("ok")
    except (OSError, ValueError):
        return []  # no daemon, no rights, no time: the shell offers nothing, and the command itself will say why
    return found or []
