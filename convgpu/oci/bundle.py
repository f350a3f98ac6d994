# SPDX-License-Identifier: Apache-2.0
"""An OCI bundle that a runtime is about to create a container from: ConvGPU's three mounts are added to it.

Nothing else of its config.json is touched. Who the container is, the engine says: its id is an argument of the runtime,
its labels are in the engine's own folder, annotations in config.json. No environment variable is believed.
Imports little: the runtime shim runs at every start, and asks the daemon, which has everything loaded.
"""

from __future__ import annotations

import json
import os
import socket

from convgpu.errors import ConvgpuError, DaemonUnavailableError, UsageError
from convgpu.oci import rootfs, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_PREFIX = "convgpu."
_LABEL_ADMIT = "convgpu.admit"
_ENGINE_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
"""Docker mounts these from its folder of the container."""
_MUSL = "this image is built on musl, which cannot preload ConvGPU's library: it would run without its limit"
_ENGINE_ROOT = "/var/lib/docker"
_ANSWER_TIMEOUT_S = 30.0


class EngineRecord:
    """What the engine keeps of a container.

    Attributes:
        folder: Its folder, None where it is not Docker's.
    """

    def __init__(self, container: str, config: Mapping[str, Any]) -> None:
        self.folder = _engine_folder(container, config)
        content: dict[str, Any] = {}
        if self.folder is not None:
            with open(f"{self.folder}/config.v2.json", "rb") as file:  # noqa: PTH123 -- pathlib is slow to load
                content = json.load(file)
        self.labels = _ours((content.get("Config") or {}).get("Labels"))
        # An annotation is always of this one container; a label may be its image's.
        self.labels |= _ours(config.get("annotations"))

    def is_to_be_guarded(self, settings: Mapping[str, str]) -> bool:
        """Tell whether the container is to have ConvGPU's mounts, by its labels and by what the daemon published."""
        return bool(self.labels) or settings.get("unlabelled") != "pass"


def read_config(bundle: str) -> dict[str, Any]:
    """Read a bundle's config.json.

    Raises:
        OSError, ValueError: It is not readable.
    """
    with open(f"{bundle}/config.json", "rb") as file:  # noqa: PTH123
        config: dict[str, Any] = json.load(file)
    return config


def has_mounts(config: Mapping[str, Any]) -> bool:
    """Tell whether ConvGPU's mounts are in a config.json."""
    return any(mount.get("destination") == targets.CLIENT for mount in config.get("mounts") or ())


def prepare(container: str, bundle: str, settings: Mapping[str, str]) -> None:
    """Add ConvGPU's mounts to a bundle, where the container is to be guarded.

    Args:
        container: Its id, as the engine gave it to the runtime.
        bundle: The folder.
        settings: What the daemon published for the shim (`convgpu.oci.published`).

    Raises:
        ConvgpuError: The container may not start; the message says why.
        OSError, ValueError: The bundle is not readable.
    """
    config = read_config(bundle)
    if has_mounts(config):
        return  # `convgpu run` or a CDI device has added them
    record = EngineRecord(container, config)
    if not record.is_to_be_guarded(settings):
        return
    mounts: list[dict[str, Any]] = config.setdefault("mounts", [])
    root = os.path.join(bundle, config["root"]["path"])  # noqa: PTH118
    if rootfs.is_musl(root):
        if record.labels:
            raise UsageError(_MUSL)
        return
    _check_free(mounts)
    own = rootfs.read(root, targets.PRELOAD)
    asked = {
        "container": container,
        "labels": record.labels,
        "engine_folder": record.folder,
        "library_target": _library_target(mounts),
        # JSON has no bytes; Latin-1 has a character for each.
        "preload": None if own is None else own.decode("latin-1"),
    }
    files = _ask_or_do(asked, settings)
    for source, target in (
        (files["library"], asked["library_target"]),
        (files["preload"], targets.PRELOAD),
        (files["client_dir"], targets.CLIENT),
    ):
        mounts.append({"destination": target, "type": "bind", "source": source, "options": ["rbind", "ro", "rprivate"]})
    _replace(f"{bundle}/config.json", json.dumps(config))


def check(state: str, settings: Mapping[str, str]) -> None:
    """Be the hook of a container that has ConvGPU's mounts from a static list: check what the list could not.

    Args:
        state: The container's state as OCI gives it to a hook: JSON with its id and its bundle.
        settings: What the daemon published.

    Raises:
        ConvgpuError: The container may not start; the message says why.
        OSError, ValueError: The bundle is not readable.
    """
    told: dict[str, str] = json.loads(state)
    container, bundle = told["id"], told["bundle"]
    config = read_config(bundle)
    root = os.path.join(bundle, config["root"]["path"])  # noqa: PTH118
    if rootfs.is_musl(root):
        raise UsageError(_MUSL)
    # The engine has mounted a file over it by now, in the container; here the container's own is seen.
    own = rootfs.read(root, targets.PRELOAD)
    if any(line.partition(b"#")[0].strip() for line in (own or b"").splitlines()):
        raise UsageError(
            f"the image has an {targets.PRELOAD} of its own, which a CDI device would hide: use the runtime convgpu"
        )
    record = EngineRecord(container, config)
    _ask_or_do(
        {
            "container": container,
            "labels": record.labels,
            "engine_folder": record.folder,
            "library_target": targets.LIBRARY_ASIDE,
            "preload": None,
        },
        settings,
    )


def _ours(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {name: text for name, text in (labels or {}).items() if name.startswith(_PREFIX)}


def _engine_folder(container: str, config: Mapping[str, Any]) -> str | None:
    """Return Docker's folder of a container, which it tells by the files that it mounts from there."""
    inner = f"/containers/{container}"
    candidates = [
        source.partition(f"{inner}/")[0]
        for mount in config.get("mounts") or ()
        if mount.get("destination") in _ENGINE_FILES and f"{inner}/" in (source := str(mount.get("source")))
    ]
    for engine_root in (*candidates, _ENGINE_ROOT):
        if os.path.isfile(f"{engine_root}{inner}/config.v2.json"):  # noqa: PTH113
            return engine_root + inner
    return None


def _check_free(mounts: list[dict[str, Any]]) -> None:
    for mount in mounts:
        if mount.get("destination") in (targets.PRELOAD, targets.LIBRARY):
            raise UsageError(f"a mount over {mount['destination']} would undo the limit: drop it")


def _library_target(mounts: list[dict[str, Any]]) -> str:
    covered = any(
        mount.get("type") == "bind" and targets.LIBRARY.startswith(str(mount.get("destination")).rstrip("/") + "/")
        for mount in mounts
    )
    return targets.LIBRARY_ASIDE if covered else targets.LIBRARY


def _ask_or_do(asked: dict[str, Any], settings: Mapping[str, str]) -> dict[str, str]:
    """Have the daemon check and prepare the start; without a daemon, as the policy says."""
    try:
        answer = _ask(asked, settings["control_socket"])
    except OSError as error:
        if settings.get("daemon_absent") != "start":
            raise DaemonUnavailableError(
                f"no ConvGPU daemon answers at {settings['control_socket']}, and runtime_daemon_absent is 'refuse'"
            ) from error
    else:
        if "error" in answer:
            raise ConvgpuError(str(answer["error"]["message"]))
        files: dict[str, str] = answer["ok"]
        return files
    from convgpu.oci.published import prepare_alone  # what the daemon has loaded, and we only now need

    return prepare_alone(asked, settings)


def _ask(asked: dict[str, Any], control_socket: str) -> dict[str, Any]:
    waits = asked["labels"].get(_LABEL_ADMIT) == "wait"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(None if waits else _ANSWER_TIMEOUT_S)
        connection.connect(control_socket)
        connection.sendall(json.dumps({"id": 1, "op": "prepare_create", "args": asked}).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            part = connection.recv(1 << 16)
            if not part:
                raise ConnectionError("the daemon closed the connection")
            received += part
    answer: dict[str, Any] = json.loads(received)
    return answer


def _replace(path: str, content: str) -> None:
    """Put the whole file in place at once, with the rights that it had."""
    draft = f"{path}.convgpu"
    mode = os.stat(path).st_mode & 0o777  # noqa: PTH116
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(content)
    os.replace(draft, path)  # noqa: PTH105
