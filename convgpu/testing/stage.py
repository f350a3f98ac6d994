# SPDX-License-Identifier: Apache-2.0
"""A stage for whole scenes: image, containers, daemon and log, each really started, and ended again.

The demo plays on it, and so do the tests with Docker. Everything goes through the `convgpu` command, as a user would.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from convgpu.sources import simgpu

IMAGE: Final = "convgpu-stage:latest"
SIMULATED_STORY: Final = "/opt/convgpu-sim/bin/story"
SIMULATION: Final = Path(os.environ.get("CONVGPU_SIM_DIR") or simgpu.DEFAULT_RUN_DIR)
"""The simulated GPU's folder: another one lets two stages stand on one machine."""
_LABEL: Final = "convgpu-stage"
_LINKS: Final = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_FOLDERS: Final = ("usr", "proc", "sys", "dev", "etc", "tmp", "run", "stage")


class StageError(Exception):
    """The scene cannot go on; the message says why."""


def interpreter(name: str) -> str:
    """Return the whole path of a Python interpreter: in a container its bare name may mean another one.

    For argparse: `type=interpreter`.

    Raises:
        ValueError: There is none of this name.
    """
    path = shutil.which(name)
    if path is None:
        raise ValueError(f"no program '{name}' is on the PATH")
    return str(Path(path).absolute())


def output_of(*command: str) -> str:
    """Run a command and return what it printed; a failure ends the scene with the command's own words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"`{' '.join(command[:4])} ...` failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise StageError(f"waited {timeout_s:.0f} s in vain: {what}")


def pack_root(files: Mapping[str, bytes] | None = None) -> bytes:
    """Return an archive of empty folders, and of files where some are given: an image into which /usr is mounted."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in _FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, target in _LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, content in (files or {}).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def make_image(name: str = IMAGE, files: Mapping[str, bytes] | None = None, changes: Sequence[str] = ()) -> None:
    """Import such an image: the containers see the host's own /usr, read-only, and nothing is pulled.

    Args:
        name: Its name.
        files: What lies in it, by path.
        changes: Instructions of a Dockerfile, such as `LABEL a=b`.
    """
    words = [word for change in changes for word in ("--change", change)]
    subprocess.run(
        ["docker", "import", *words, "-", name], input=pack_root(files), check=True, stdout=subprocess.DEVNULL
    )


class StageDaemon:
    """A daemon with folders of its own.

    Args:
        folder: For its state, log and stderr.
        arguments: More options for `convgpu daemon`.
    """

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._arguments = arguments
        self._stderr = folder / "daemon.stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self.run_dir = Path(os.environ["CONVGPU_RUN_DIR"])
        self.log = folder / "log" / "audit.jsonl"
        self._folders = [
            "--run-dir",
            str(self.run_dir),
            "--state-dir",
            str(folder / "state"),
            "--log-dir",
            str(folder / "log"),
        ]

    @property
    def pid(self) -> int:
        """Of the daemon that was started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                # The machine's own configuration file must not change the scene.
                ["convgpu", "daemon", "--config", os.devnull, *self._folders, *self._arguments],
                stderr=stderr,
                start_new_session=True,
            )
        wait_until("the daemon answers", self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StageError(f"the daemon ended: {self._stderr.read_text().strip()}")
        return subprocess.run(["convgpu", "ps"], capture_output=True, check=False).returncode == 0

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise StageError("the daemon did not stop within 15 s of SIGTERM") from None


class AuditTail:
    """Reads the audit log as it grows and remembers the records.

    Args:
        on_record: Called with each new record.
    """

    def __init__(self, path: Path, on_record: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self._path = path
        self._offset = 0
        self._on_record = on_record
        self.records: list[dict[str, Any]] = []

    def follow(self) -> list[dict[str, Any]]:
        """Read what is new; only whole lines."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                data = log.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [json.loads(line) for line in whole.splitlines()]
        for record in new:
            self._on_record(record)
        self.records += new
        return new

    def find(self, record_type: str, container: str, size_bytes: int | None = None) -> Any:
        """Return the newest record of a type about a container, and of a size where one is given."""
        self.follow()
        for record in reversed(self.records):
            about = (record.get("container") or {}).get("name")
            if (record["type"], about) == (record_type, container) and size_bytes in (None, record.get("size_bytes")):
                return record
        return None

    def wait(self, record_type: str, container: str, size_bytes: int | None = None) -> dict[str, Any]:
        """Wait for such a record."""
        found: dict[str, Any] = wait_until(
            f"a record {record_type} of {container}", lambda: self.find(record_type, container, size_bytes)
        )
        return found


class StageContainer:
    """One container, run through `convgpu run`. It sees `folder` as /stage.

    Args:
        limit: What `--limit` is given.
        docker_arguments: What gives it the GPU.
        options: More options for `convgpu run`.
    """

    def __init__(
        self,
        name: str,
        limit: str,
        stage_folder: Path,
        docker_arguments: list[str],
        options: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self._options = ("--limit", limit, *options)
        self._folder = stage_folder
        self._docker_arguments = docker_arguments
        self.id = ""

    def run(self, *command: str, image: str = IMAGE) -> None:
        """Start it in the background."""
        self.id = (
            output_of(
                "convgpu",
                "run",
                *self._options,
                "--",
                "-d",
                "--name",
                self.name,
                "--label",
                f"{_LABEL}=1",
                "--network",
                "none",
                "-v",
                "/usr:/usr:ro",
                "-v",
                f"{self._folder}:/stage",
                *self._docker_arguments,
                image,
                *command,
            )
            .strip()
            .splitlines()[-1]
        )

    def tell(self, what: str) -> None:
        """Let a program that waits for a file go on."""
        (self._folder / f"{self.name}-{what}").touch()

    def lines(self) -> list[dict[str, str]]:
        """Return what the program printed: one dictionary of `key=value` words a line, its first word as `ms`."""
        printed = output_of("docker", "logs", self.name)
        found = []
        for line in printed.splitlines():
            words = line.split()
            if words and words[0].isdigit():
                found.append({"ms": words[0]} | dict(word.split("=", 1) for word in words[1:] if "=" in word))
        return found

    def step(self, step: str) -> dict[str, str]:
        """Return the newest line of a step, empty where the program has not come to it."""
        found = [line for line in self.lines() if line.get("step") == step]
        return found[-1] if found else {}

    def wait_for(self, step: str) -> dict[str, str]:
        """Wait for a step's line, and return it."""
        line: dict[str, str] = wait_until(f"{self.name} comes to '{step}'", lambda: self.step(step))
        return line

    def exit_code(self) -> int:
        """Wait for its end and return Docker's exit code."""
        return int(output_of("docker", "wait", self.name))

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer or an impatient user would."""
        output_of("docker", "kill", "--signal", "KILL", self.name)


def remove_containers(names: tuple[str, ...]) -> None:
    """Remove what an earlier scene left; a container of another origin with one of the names is an error."""
    for name in names:
        found = subprocess.run(
            ["docker", "inspect", "-f", f'{{{{index .Config.Labels "{_LABEL}"}}}}', name],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            continue
        if found.stdout.strip() != "1":
            raise StageError(f"there is a container called '{name}' that is not the stage's: rename or remove it first")
        output_of("docker", "rm", "--force", name)


@dataclass
class Stage:
    """The whole stage: a daemon, a folder that all containers see as /stage, and the arguments that give them the GPU.

    Attributes:
        docker: Arguments that give a container the GPU.
        names: The containers that were made on it.
    """

    daemon: StageDaemon
    folder: Path
    docker: list[str]
    names: list[str] = field(default_factory=list)

    def container(self, name: str, limit: str, *options: str, docker: tuple[str, ...] = ()) -> StageContainer:
        """Make a container, not started yet. `options` are for `convgpu run`, `docker` for `docker run`."""
        remove_containers((name,))
        self.names.append(name)
        return StageContainer(name, limit, self.folder, [*self.docker, *docker], options)

    def story(
        self, name: str, limit: str, *steps: str, options: tuple[str, ...] = (), docker: tuple[str, ...] = ()
    ) -> StageContainer:
        """Start a container that plays the story program's steps."""
        container = self.container(name, limit, *options, docker=docker)
        container.run(SIMULATED_STORY, f"name={name}", *steps)
        return container

    def log(self) -> AuditTail:
        """Return a reader of the audit log, from its beginning."""
        return AuditTail(self.daemon.log)

    def listing(self) -> dict[str, dict[str, Any]]:
        """Return `convgpu ps --format json`, by container name."""
        entries: list[dict[str, Any]] = json.loads(output_of("convgpu", "ps", "--format", "json"))
        return {entry["name"]: entry for entry in entries}

    def device(self, name: str) -> dict[str, Any]:
        """Return a container's figures on its one device."""
        device: dict[str, Any] = self.listing()[name]["devices"][0]
        return device

    def snapshot(self) -> dict[str, Any]:
        """Return `convgpu top --once --json`."""
        snapshot: dict[str, Any] = json.loads(output_of("convgpu", "top", "--once", "--json"))
        return snapshot

    def tell(self, name: str) -> None:
        """Make a file that a story waits for."""
        (self.folder / name).touch()


@contextmanager
def simulated_gpu(folder: Path = SIMULATION, gpus: int = 1) -> Iterator[list[str]]:
    """Have simulated GPUs of 10 GiB for a while; yields the arguments that give them to a container."""
    devices_before = os.environ.get(simgpu.DEVICE_ENVIRONMENT)
    os.environ[simgpu.DEVICE_ENVIRONMENT] = str(folder / "dev")  # a daemon started from here looks there
    where = ("--sim-dir", str(folder))
    output_of("convgpu", "sim", "up", *where, "--memory", "10GiB", "--context", "512MiB", "--gpus", str(gpus))
    try:
        yield output_of("convgpu", "sim", "docker-args", *where).split()
    finally:
        output_of("convgpu", "sim", "down", *where)
        if devices_before is None:
            del os.environ[simgpu.DEVICE_ENVIRONMENT]
        else:
            os.environ[simgpu.DEVICE_ENVIRONMENT] = devices_before
