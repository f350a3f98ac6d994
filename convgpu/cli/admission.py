# SPDX-License-Identifier: Apache-2.0
"""The part of `convgpu run` that waits: create the container, wait for its guarantee, then start it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Final

import click

from convgpu.api import Client
from convgpu.core.starting import AdmitAnswer
from convgpu.errors import DaemonUnavailableError
from convgpu.paths import RunPaths

_AGAIN_AFTER_S: Final = 0.5
"""Between two looks for a daemon that went away while somebody waited."""
_TELL_AFTER_S: Final = 0.3
"""Whoever waits longer is told so."""


def create_and_wait(create: Sequence[str], run_dir: RunPaths) -> str:
    """Create a container, wait until the daemon has set its guarantee aside, and return its id.

    The created container is removed again when it is not to be started: interrupted, denied, or out of time.

    Raises:
        click.exceptions.Exit: Docker refused; it has said why, and its status is ours.
        QuotaRefusedError: The guarantee can never be had, or the wait time is over.
    """
    created = subprocess.run(create, stdout=subprocess.PIPE, text=True, check=False)
    if created.returncode != 0:
        raise click.exceptions.Exit(created.returncode)
    container = created.stdout.strip()
    try:
        _wait(container, run_dir)
    except BaseException:
        subprocess.run(["docker", "rm", container], stdout=subprocess.DEVNULL, check=False)
        raise
    return container


def _wait(container: str, run_dir: RunPaths) -> AdmitAnswer:
    since_ns = time.monotonic_ns()
    announcement = f"convgpu: waiting until its guarantee can be set aside for {container[:12]}; see `convgpu queue`"
    telling = threading.Timer(_TELL_AFTER_S, click.echo, (announcement,), {"err": True})
    telling.start()
    try:
        while True:
            try:
                with Client(run_dir.control_socket) as client:
                    return client.admit(container, since_ns)
            except DaemonUnavailableError:
                # It was there when the command was checked: a restart. The next one keeps our place.
                time.sleep(_AGAIN_AFTER_S)
    finally:
        telling.cancel()
