# SPDX-License-Identifier: Apache-2.0
"""Docker: which containers there are, what they asked for, and every turn of their lives."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import docker
import docker.errors
import requests.exceptions

from convgpu.core.identity import ContainerId
from convgpu.errors import ConvgpuError, EnvironmentMissingError

LIFECYCLE_EVENTS: Final = ("start", "die", "oom", "pause", "unpause", "rename", "update", "destroy")
_PODMANS_NAMES: Final = {"remove": "destroy"}
"""Podman's events have Docker's names, but for this one (recorded with 4.3)."""
CLIENT_MOUNT: Final = "/run/convgpu"
"""Where a guarded container sees the folder of the client socket; the wrapper looks there (CVG_CLIENT_SOCKET)."""
_DEVICE_FILE: Final = re.compile(r"/dev/nvidia(\d+)")
_OUR_PREFIX: Final = "convgpu."
_API_TIMEOUT_S: Final = 10
_RECONNECT_S: Final = 1.0
_STOP_S: Final = 10
"""What `docker stop` gives a container's first process where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What Docker says of a container.

    Attributes:
        created_ns: Creation time, nanoseconds since the epoch: `fifo` orders by it.
        device_minors: The N of each /dev/nvidiaN that the container was given; None: it was given all.
        device_uuids: Devices named by UUID in a device request; empty where none is.
        client_dir: The folder of the host that it sees as /run/convgpu; None: it has no such mount.
    """

    container_id: ContainerId
    name: str
    image: str
    state: str
    created_ns: int
    pid: int
    labels: Mapping[str, str] = field(default_factory=dict)
    device_minors: frozenset[int] | None = None
    device_uuids: frozenset[str] = frozenset()
    client_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEvent:
    """A turn of a container's life; `action` is one of LIFECYCLE_EVENTS, `exit_code` comes with `die`."""

    container_id: ContainerId
    action: str
    time_ns: int
    exit_code: int | None = None


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    """Turn what docker-py raises into one sentence of ConvGPU's own."""
    try:
        yield
    except docker.errors.APIError as error:
        raise ConvgpuError(f"Docker says no: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise ConvgpuError(f"Docker does not answer: {error}") from error


class ContainerSource(Protocol):
    """What the daemon needs of a container engine."""

    def inspect(self, container: str) -> ContainerFacts | None:
        """Look one container up; None: there is none of that name or id."""

    def running(self) -> tuple[ContainerFacts, ...]:
        """List the containers that run now."""

    def pause(self, container: ContainerId) -> None:
        """Freeze all processes of a container.

        Raises:
            ConvgpuError: The engine says no, or there is no such container.
        """

    def stop(self, container: ContainerId) -> None:
        """End a container: its first process gets its stop signal, all that is left ten seconds later is killed.

        Raises:
            ConvgpuError: The engine says no, or there is no such container.
        """

    def watch(self, on_event: Callable[[ContainerEvent], None], on_gap: Callable[[], None]) -> None:
        """Report events from another thread until `close`; `on_gap` after a broken stream: list again."""

    def close(self) -> None:
        """Stop watching."""


class Docker:
    """The real engine, through docker-py.

    Raises:
        EnvironmentMissingError: No engine answers.
    """

    def __init__(self) -> None:
        try:
            self._client = docker.from_env(timeout=_API_TIMEOUT_S)
            self._client.ping()
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise EnvironmentMissingError(
                f"Docker does not answer: {error}",
                next_step="start it (`systemctl start docker`), or set DOCKER_HOST; `tools/setup` installs one",
            ) from error
        self._closing = threading.Event()
        self._stream: Any = None
        self._thread: threading.Thread | None = None

    def inspect(self, container: str) -> ContainerFacts | None:
        """Look one container up by id or name."""
        try:
            return facts_of(self._client.api.inspect_container(container))
        except docker.errors.NotFound:
            return None

    def running(self) -> tuple[ContainerFacts, ...]:
        """List the containers that run now; one that ends meanwhile is left out."""
        listed = self._client.api.containers()
        found = (self.inspect(entry["Id"]) for entry in listed)
        return tuple(facts for facts in found if facts is not None and facts.state in ("running", "paused"))

    def pause(self, container: ContainerId) -> None:
        """Freeze all processes of a container."""
        with _engine_errors():
            self._client.api.pause(container)

    def stop(self, container: ContainerId) -> None:
        """End a container, in the time that Docker gives one."""
        with _engine_errors():
            self._client.api.stop(container, timeout=_STOP_S)

    def watch(self, on_event: Callable[[ContainerEvent], None], on_gap: Callable[[], None]) -> None:
        """Start a thread that reports events, and survives restarts of the engine."""
        self._thread = threading.Thread(
            target=self._watch_loop, args=(on_event, on_gap), name="docker-events", daemon=True
        )
        self._thread.start()

    def _watch_loop(self, on_event: Callable[[ContainerEvent], None], on_gap: Callable[[], None]) -> None:
        while not self._closing.is_set():
            try:
                self._stream = self._client.events(
                    decode=True, filters={"type": "container", "event": [*LIFECYCLE_EVENTS, *_PODMANS_NAMES]}
                )
                on_gap()
                for raw in self._stream:
                    event = event_of(raw)
                    if event is not None:
                        on_event(event)
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError):
                # ValueError: a line cut short when the engine stops. Either way the stream is gone: list again.
                pass
            self._closing.wait(_RECONNECT_S)

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        if self._stream is not None:
            # docker-py looks for the socket below urllib3's objects, which may be gone already: then nothing is open.
            with contextlib.suppress(docker.errors.DockerException, OSError, AttributeError):
                self._stream.close()
        self._client.close()


def facts_of(inspected: Mapping[str, Any]) -> ContainerFacts:
    """Pick from the engine's `inspect` answer what ConvGPU needs."""
    config = inspected.get("Config") or {}
    state = inspected.get("State") or {}
    minors, uuids = _devices_of(inspected)
    return ContainerFacts(
        container_id=ContainerId(inspected["Id"]),
        name=str(inspected["Name"]).lstrip("/"),
        image=str(config.get("Image") or inspected.get("Image") or ""),
        state=str(state.get("Status") or "unknown"),
        created_ns=_time_ns(str(inspected["Created"])),
        pid=int(state.get("Pid") or 0),
        labels=_labels_of(config, inspected.get("HostConfig") or {}),
        device_minors=minors,
        device_uuids=uuids,
        client_dir=_source_of(inspected, CLIENT_MOUNT),
    )


def facts_of_folder(folder: Path) -> ContainerFacts:
    """Pick the same from the folder that Docker keeps of a container: while it starts, the API does not answer.

    Raises:
        OSError, ValueError, KeyError: It is not such a folder.
    """
    container: dict[str, Any] = json.loads((folder / "config.v2.json").read_bytes())
    mounts = (container.get("MountPoints") or {}).values()
    return facts_of(
        {
            "Id": container["ID"],
            "Name": container["Name"],
            "Created": container["Created"],
            "Config": container.get("Config"),
            "HostConfig": json.loads((folder / "hostconfig.json").read_bytes()),
            "Mounts": [{"Destination": mount["Destination"], "Source": mount.get("Source")} for mount in mounts],
        }
    )


def _labels_of(config: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's labels, and those of its annotations (Docker 24 on) that mean the same to ConvGPU.

    An annotation is always of this one container; a label may be its image's.
    """
    annotations = host.get("Annotations") or {}
    return {
        **(config.get("Labels") or {}),
        **{name: text for name, text in annotations.items() if name.startswith(_OUR_PREFIX)},
    }


def _source_of(inspected: Mapping[str, Any], destination: str) -> str | None:
    """Return the folder of the host that a container sees at a place."""
    for mount in inspected.get("Mounts") or ():
        if mount.get("Destination") == destination:
            return str(mount.get("Source") or "") or None
    return None


def event_of(raw: Mapping[str, Any]) -> ContainerEvent | None:
    """Read one message of the event stream; None for what ConvGPU does not follow."""
    action = str(raw.get("Action") or "")
    action = _PODMANS_NAMES.get(action, action)
    if raw.get("Type") != "container" or action not in LIFECYCLE_EVENTS:
        return None
    actor = raw.get("Actor") or {}
    exit_code = (actor.get("Attributes") or {}).get("exitCode")
    return ContainerEvent(
        container_id=ContainerId(str(actor.get("ID") or raw.get("id"))),
        action=action,
        time_ns=int(raw.get("timeNano") or 0),
        exit_code=int(exit_code) if exit_code is not None else None,
    )


def _time_ns(text: str) -> int:
    """Read Docker's RFC 3339 time with nanoseconds; datetime alone would drop the last three digits."""
    whole, _, rest = text.partition(".")
    fraction = re.match(r"\d*", rest)
    digits = (fraction.group() if fraction else "")[:9].ljust(9, "0")
    zone = re.search(r"(Z|[+-]\d\d:\d\d)$", text)
    moment = datetime.fromisoformat(
        whole.removesuffix("Z") + (zone.group().replace("Z", "+00:00") if zone else "+00:00")
    )
    return int(moment.timestamp()) * 1_000_000_000 + int(digits)


def _devices_of(inspected: Mapping[str, Any]) -> tuple[frozenset[int] | None, frozenset[str]]:
    """Return the device files and UUIDs a container was given; (None, empty) when it was given all or none by name."""
    host = inspected.get("HostConfig") or {}
    paths = [str(device.get("PathOnHost") or "") for device in host.get("Devices") or ()]
    paths += [str(mount.get("Destination") or "") for mount in inspected.get("Mounts") or ()]
    minors = {int(match.group(1)) for match in map(_DEVICE_FILE.fullmatch, paths) if match}
    uuids: set[str] = set()
    for request in host.get("DeviceRequests") or ():
        for name in request.get("DeviceIDs") or ():
            if str(name).isdigit():
                minors.add(int(name))
            elif str(name).startswith("GPU-"):
                uuids.add(str(name))
    return (frozenset(minors) if minors else None), frozenset(uuids)
