# SPDX-License-Identifier: Apache-2.0
"""A whole daemon in this process, on fakes of Docker and NVML, with real sockets, pages, pidfds and cgroups."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convgpu.api import Client
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import Layers
from convgpu.core.identity import ContainerId
from convgpu.daemon.service import Service
from convgpu.sources import cgroup
from convgpu.sources.docker import ContainerFacts
from convgpu.testing.containers import FakeContainerSource
from convgpu.testing.gpus import FakeGpuSource
from convgpu.testing.images import FakeImages
from convgpu.testing.stage import wait_until
from convgpu.testing.witness import FakeWitness

PEER = Path(__file__).parent / "peer.py"


class PeerProcess:
    """A process in a container of the house."""

    def __init__(self, socket_path: Path, cgroup_folder: Path | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PEER), str(socket_path), str(cgroup_folder or "-")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.read() == "ready"

    def do(self, *words: Any) -> Any:
        self.tell(*words)
        return self.read()

    def tell(self, *words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class House:
    """A daemon and what stands around it.

    Attributes:
        settings: For the next `start`.
        witness: For the next `start`; None: there is none.
    """

    folder: Path
    docker: FakeContainerSource = field(default_factory=FakeContainerSource)
    nvml: FakeGpuSource = field(default_factory=FakeGpuSource)
    images: FakeImages = field(default_factory=FakeImages)
    settings: dict[str, Any] = field(default_factory=dict)
    peers: list[PeerProcess] = field(default_factory=list)
    groups: list[Path] = field(default_factory=list)
    service: Service | None = None
    witness: FakeWitness | None = None
    _thread: threading.Thread | None = None
    _number: int = 0

    @property
    def config(self) -> DaemonConfig:
        folders = {name: self.folder / name.removesuffix("_dir") for name in ("run_dir", "state_dir", "log_dir")}
        return DaemonConfig(**folders, probes="off", **{"interval_s": 0.1, **self.settings})

    @property
    def layers(self) -> Layers:
        """The settings above, given as on a command line; below them those of `config_file`, where it is there."""
        layers = Layers.of(self.config)
        layers.file = self.config_file
        return layers

    @property
    def config_file(self) -> Path:
        return self.folder / "config.toml"

    def start(self) -> None:
        started = threading.Event()

        async def serve() -> None:
            self.service = Service(self.layers, self.docker, self.nvml, self.witness, lambda: self.images)
            running = asyncio.create_task(self.service.run(signals=False))
            while not (self.config.paths.control_socket.exists() or running.done()):
                await asyncio.sleep(0.005)
            started.set()
            await running

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),))
        self._thread.start()
        assert started.wait(10)

    def stop(self) -> None:
        if self.service is not None and self._thread is not None:
            self.service.guard.loop.call_soon_threadsafe(self.service.stop)
            self._thread.join(10)
            assert not self._thread.is_alive()
            self.service = None

    def container(
        self,
        name: str,
        *,
        announce: bool = True,
        client_dir: Path | None = None,
        state: str = "running",
        **labels: str,
    ) -> ContainerId:
        self._number += 1
        identifier = ContainerId(f"{self._number:064x}")
        mount = cgroup.unified_mount()
        assert mount is not None
        group = mount / f"convgpu-test-{os.getpid()}" / identifier  # two runs at a time do not meet
        group.mkdir(parents=True)
        self.groups.append(group)
        self.docker.add(
            ContainerFacts(
                container_id=identifier,
                name=name,
                image="image",
                state=state,
                created_ns=self._number,
                pid=0,
                client_dir=None if client_dir is None else str(client_dir),
                labels={f"convgpu.{key}": value for key, value in labels.items()},
            ),
            announce=announce,
        )
        return identifier

    def run(self, container: ContainerId) -> None:
        """Start a container that was only created."""
        self.docker.add(replace(self.docker.known[container], state="running"))

    def peer(self, container: ContainerId | None) -> PeerProcess:
        folder = next((group for group in self.groups if group.name == container), None)
        self.peers.append(PeerProcess(self.config.paths.client_socket, folder))
        return self.peers[-1]

    def client(self) -> Client:
        return Client(self.config.paths.control_socket)

    @property
    def log(self) -> Path:
        return self.folder / "log" / "audit.jsonl"

    def records(self, record_type: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["type"] == record_type]

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        return wait_until(what, condition, timeout_s=10)
