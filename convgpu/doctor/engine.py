# SPDX-License-Identifier: Apache-2.0
"""The check of the container engine."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from convgpu.doctor.finding import Machine, Verdict
from convgpu.errors import EnvironmentMissingError

_API_TIMEOUT_S = 5
_SILENT_FIX = "start it (`sudo systemctl start docker`), or set DOCKER_HOST; `sudo tools/setup` installs one"
_REFUSED_FIX = "run `sudo convgpu doctor`, or let the user into the group docker, whose members are as good as root"


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Return a client of the engine that the environment names; it is known to answer.

    Raises:
        EnvironmentMissingError: It does not.
    """
    import docker
    import docker.errors
    import requests.exceptions

    client: Any = None
    try:
        client = docker.from_env(timeout=_API_TIMEOUT_S)
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        if client is not None:
            client.close()
        refused = "Permission denied" in str(error)  # docker-py has no error of its own for it
        raise EnvironmentMissingError(
            "this user may not ask the engine" if refused else f"the engine does not answer: {error}",
            next_step=_REFUSED_FIX if refused else _SILENT_FIX,
        ) from error
    try:
        yield client
    finally:
        client.close()


def docker(_: Machine) -> Verdict:
    """Ask the engine who it is and how it makes cgroups; look for the client that `convgpu run` becomes."""
    try:
        with connected() as client:
            info: dict[str, Any] = client.info()
    except EnvironmentMissingError as error:
        return Verdict("fail", error.message, error.advice)
    return judge_engine(info, shutil.which("docker"))


def judge_engine(info: dict[str, Any], client: str | None) -> Verdict:
    """Judge the engine's answer to `docker info`, and where its client is."""
    detail = (
        f"engine {info.get('ServerVersion') or 'of unknown version'}, "
        f"cgroup driver {info.get('CgroupDriver') or 'unknown'}, cgroup v{info.get('CgroupVersion') or '?'}"
    )
    if client is None:
        return Verdict("fail", f"{detail}; its client `docker` is not in PATH", "install docker-cli (or docker.io)")
    if info.get("CgroupDriver") == "none":
        return Verdict(
            "fail",
            f"{detail}: containers have no cgroup of their own, so nobody can tell them apart",
            "run the engine as root, or give rootless Docker cgroup v2 with systemd",
        )
    return Verdict("ok", detail)
