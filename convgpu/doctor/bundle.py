# SPDX-License-Identifier: Apache-2.0
"""A bundle for a report of a fault: what the doctor found, versions, figures. No name, no address, no secret.

What goes in is chosen, field by field; nothing is copied whole. Then everything passes the redaction.
"""

from __future__ import annotations

import getpass
import gzip
import io
import json
import os
import platform
import socket
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from convgpu import __version__
from convgpu.api import Client
from convgpu.config import forms
from convgpu.config.groups import GROUP_TABLE, split_name
from convgpu.config.keys import find_key
from convgpu.core.status import SettingStatus
from convgpu.doctor.engine import connected
from convgpu.doctor.finding import Finding, Machine
from convgpu.doctor.redaction import Redaction
from convgpu.errors import ConvgpuError, EnvironmentMissingError

CONTENTS: Final = {
    "findings.json": "what the checks found",
    "versions.json": "of ConvGPU, Python, packages, kernel, distribution and Docker",
    "status.json": "the daemon's figures: GPUs, containers and groups (numbered, not named), who waits, the witness",
    "settings.json": "the daemon's settings; of folders, programs, commands and addresses only whether they are set",
    "events.json": "type, time and figures of the last 200 events; not their sentences",
    "environment.json": "the names of the variables that concern GPUs, Docker and ConvGPU; not their values",
}
"""The members, and what is in each; shown before and after, and in the bundle's README."""
REMOVED: Final = (
    "Names of containers, images, programs, users and machines, addresses, home folders, ids and the values of the "
    "environment are replaced by stand-ins. Look into it before you send it: tar -xzOf FILE"
)
_README: Final = "README.txt"
_EVENTS: Final = 200
_PACKAGES: Final = ("click", "msgspec", "docker", "nvidia-ml-py", "rich", "cffi", "prometheus-client")
_VARIABLES: Final = ("CONVGPU", "CUDA", "DOCKER", "LD_", "NVIDIA", "PYTHON")
_ENGINE_FIELDS: Final = ("ServerVersion", "Driver", "CgroupDriver", "CgroupVersion", "SecurityOptions", "Architecture")
_RUNTIMES: Final = ("runc", "crun", "nvidia", "convgpu", "kata", "runsc")
_HIDDEN_FORMS: Final = (forms.FOLDER, forms.PROGRAM, forms.COMMAND, forms.LISTEN)
_EVENT_FIELDS: Final = ("seq", "ts", "type", "gpu", "api", "size_bytes", "waited_ns")


def write(
    path: Path, findings: Sequence[Finding], machine: Machine, environment: Mapping[str, str]
) -> list[tuple[str, int]]:
    """Write the bundle, readable by its owner alone.

    Returns:
        Its members with their sizes in bytes.

    Raises:
        EnvironmentMissingError: The file is there already, or cannot be written.
    """
    members = collect(findings, machine, environment)
    with os.fdopen(_created(path), "wb") as file:
        file.write(_packed(members))
    return [(name, len(content)) for name, content in members.items()]


def require(path: Path) -> None:
    """Make sure that the bundle can be written there, before checks that take seconds.

    Raises:
        EnvironmentMissingError: The file is there already, or cannot be written.
    """
    os.close(_created(path))
    path.unlink()


def _created(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EnvironmentMissingError(
            f"{path} cannot be written: {error.strerror}", next_step="give --bundle another, new file"
        ) from error


def collect(findings: Sequence[Finding], machine: Machine, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Return the members of a bundle."""
    redaction = Redaction(environment, (socket.gethostname(), _user()))
    status = _asked(machine, lambda client: redaction.snapshot(client.snapshot()))  # names first: all else is searched
    parts: dict[str, Any] = {
        "findings.json": [asdict(finding) for finding in findings],
        "versions.json": _versions(machine),
        "status.json": status,
        "settings.json": _asked(machine, lambda client: _settings(client.config_show().settings, redaction)),
        "events.json": _asked(machine, lambda client: _events(client)),
        "environment.json": sorted(name for name in environment if name.startswith(_VARIABLES)),
    }
    members = {_README: _readme().encode()}
    return members | {name: _text(parts[name], redaction).encode() for name in CONTENTS}


def _readme() -> str:
    lines = [f"{name}: {about}" for name, about in CONTENTS.items()]
    return "\n".join([f"Made by `convgpu doctor --bundle`, version {__version__}.", "", *lines, "", REMOVED, ""])


def _text(value: Any, redaction: Redaction) -> str:
    """Return JSON whose texts passed the redaction; keys and numbers are ours."""

    def clean(part: Any) -> Any:
        if isinstance(part, str):
            return redaction.text(part)
        if isinstance(part, dict):
            return {key: clean(each) for key, each in part.items()}
        if isinstance(part, (list, tuple)):
            return [clean(each) for each in part]
        return part

    return json.dumps(clean(value), indent=1) + "\n"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return ""


def _versions(machine: Machine) -> dict[str, Any]:
    distribution = [
        line.partition("=")[2].strip('"')
        for line in (machine.read("etc/os-release") or "").splitlines()
        if line.startswith("PRETTY_NAME=")
    ]
    return {
        "convgpu": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "kernel": (machine.read("proc/sys/kernel/osrelease") or "").strip(),
        "machine": platform.machine(),
        "distribution": distribution[0] if distribution else None,
        "processors": os.cpu_count(),
        "docker": _engine(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _engine() -> dict[str, Any] | None:
    try:
        with connected() as client:
            info = client.info()
    except EnvironmentMissingError:
        return None
    told = {name: info.get(name) for name in _ENGINE_FIELDS}
    runtimes = info.get("Runtimes") or {}
    default = info.get("DefaultRuntime")
    return told | {
        "Runtimes": sorted(name for name in runtimes if name in _RUNTIMES),
        "DefaultRuntime": default if default in _RUNTIMES else "(another)",
    }


def _asked(machine: Machine, ask: Callable[[Client], Any]) -> Any:
    """Ask the daemon; that it does not answer, and the kind of its error, is worth knowing too."""
    try:
        with Client(machine.paths.control_socket) as client:
            return ask(client)
    except ConvgpuError as error:
        return {"error": type(error).__name__}


def _settings(settings: Iterable[SettingStatus], redaction: Redaction) -> list[dict[str, Any]]:
    shown = []
    for setting in settings:
        device, key = find_key(setting.key)
        hidden = key.form in _HIDDEN_FORMS and setting.source != "default"
        group = split_name(setting.key)
        if group is not None:
            name = f"{GROUP_TABLE}.{redaction.of('group', group[0])}.{key.name}"
        else:
            name = setting.key if device is None else f"device.(gpu).{key.name}"
        shown.append({"key": name, "value": "(set)" if hidden else setting.value, "source": setting.source})
    return shown


def _events(client: Client) -> list[dict[str, Any]]:
    told = [event for batch in client.events(last=_EVENTS, follow=False) for event in batch.events]
    return [{name: getattr(event, name) for name in _EVENT_FIELDS} for event in told]


def _packed(members: Mapping[str, bytes]) -> bytes:
    """Return the archive. Neither it nor its compression names a user, a group or a file of this machine."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name, content in members.items():
            member = tarfile.TarInfo(f"convgpu-bundle/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()
