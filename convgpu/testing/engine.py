# SPDX-License-Identifier: Apache-2.0
"""A Docker engine with folders of its own, beside the machine's: it can be configured, stopped and started at will."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from convgpu.oci.launcher import PROGRAM_NAME, launcher_text
from convgpu.testing.stage import (
    SIMULATION,
    Stage,
    StageDaemon,
    StageError,
    make_image,
    output_of,
    simulated_gpu,
    wait_until,
)

NEWER: Final = Path(os.environ.get("CONVGPU_NEWER_DOCKER") or Path(sys.prefix).parent / "newer-docker")
"""Where `tools/setup --test` laid a newer engine than the distribution's, with `tools/newer-docker`."""
SUBORDINATES: Final = ("nobody", "nogroup", 200_000, 65_536)
"""User and group of the names, first id and number of ids that containers get with `remapped`: as in /etc/subuid."""
_STOP_S: Final = 60


class Engine:
    """A dockerd of its own, which knows ConvGPU's runtime.

    Attributes:
        cdi: Where it looks for CDI devices.

    Args:
        folder: For all that it keeps. Its containers look for ConvGPU's state in `folder / "state"`.
        settings: What its daemon.json has beside the runtime.
        programs: A folder with `usr/sbin/dockerd` and its helpers, Docker 25 or newer; None: the machine's own.
        remapped: Its containers' users are those of SUBORDINATES (`userns-remap`).
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        programs: Path | None = None,
        *,
        remapped: bool = False,
    ) -> None:
        self.folder = folder
        self.host = f"unix://{folder / 'docker.sock'}"
        self._config = folder / "daemon.json"
        self._log = folder / "dockerd.log"
        self._programs = programs
        self._remapped = remapped
        runtime = folder / PROGRAM_NAME
        runtime.write_text(launcher_text(folder / "state"))
        runtime.chmod(0o755)
        self.cdi = folder / "cdi"
        self.settings: dict[str, Any] = {"runtimes": {"convgpu": {"path": str(runtime)}}, **(settings or {})}
        if programs is not None:  # Docker 20.10 would not start with settings that it does not know
            self.settings |= {"features": {"cdi": True}, "cdi-spec-dirs": [str(self.cdi)]}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with the settings of now, and wait until it answers."""
        self._config.write_text(json.dumps(self.settings))
        environment = dict(os.environ)
        if self._programs is not None:
            own = f"{self._programs}/usr/sbin:{self._programs}/usr/bin"
            environment["PATH"] = f"{own}:{environment['PATH']}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, start_new_session=True, env=environment
            )
        wait_until("the engine answers", self._answers, timeout_s=60)

    def _command(self) -> list[str]:
        command = [
            "dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--config-file", str(self._config),
            "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec"),
            "--pidfile", str(self.folder / "dockerd.pid"), "--host", self.host,
        ]  # fmt: skip
        if not self._remapped:
            return command
        # Docker reads the ranges from /etc: it alone gets to see other files there.
        user, group, first, count = SUBORDINATES
        ranges = self.folder / "subordinates"
        ranges.write_text("".join(f"{name}:{first}:{count}\n" for name in (user, group)))
        script = 'for file in /etc/subuid /etc/subgid; do mount --bind "$0" "$file" || exit; done; exec "$@"'
        alone = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, str(ranges)]
        return [*alone, *command, f"--userns-remap={user}:{group}"]

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StageError(f"the engine ended: {self._log.read_text()[-500:]}")
        return self.docker("info").returncode == 0

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Docker's command line against this engine."""
        environment = {**os.environ, "DOCKER_HOST": self.host}
        return subprocess.run(["docker", *words], capture_output=True, text=True, check=False, env=environment)

    def reload(self) -> None:
        """Have it read the settings of now, as `convgpu install` does."""
        assert self._process is not None
        self._config.write_text(json.dumps(self.settings))
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it in good order: its containers too, unless its settings say `live-restore`."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=_STOP_S)

    def remove(self) -> None:
        """Remove its containers, end it, and unmount what it leaves behind; the folder is the caller's."""
        if self._process is not None and self._process.poll() is None:
            left = self.docker("ps", "--all", "--quiet").stdout.split()
            if left:
                self.docker("rm", "--force", *left)
        self.stop()
        for mounted in _mounts_below(self.folder):
            subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)


def _mounts_below(folder: Path) -> Sequence[str]:
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [path for path in reversed(mounted) if path.startswith(f"{folder}/")]


def has_newer() -> bool:
    """Tell whether a newer engine was laid down here."""
    return (NEWER / "usr/sbin/dockerd").exists() and shutil.which("docker") is not None


@contextmanager
def engine_stage(
    name: str,
    daemon_arguments: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    programs: Path | None = None,
    *,
    remapped: bool = False,
) -> Iterator[tuple[Stage, Engine]]:
    """Have an engine, a daemon and a simulated GPU of their own for a while; every command meanwhile talks to these.

    Args:
        name: Tells this one's simulated GPU from others.
        daemon_arguments: More options for `convgpu daemon`.
        settings: As for `Engine`.
        programs: As for `Engine`.
        remapped: As for `Engine`.
    """
    folder = Path(tempfile.mkdtemp(prefix="cvg-engine-"))
    folder.chmod(0o755)
    engine = Engine(folder, settings, programs, remapped=remapped)
    ours = {"CONVGPU_RUN_DIR": str(folder / "run"), "DOCKER_HOST": engine.host}
    # The commands of the installed package that is under test, wherever the shell finds others.
    ours["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    before = {variable: os.environ.get(variable) for variable in ours}
    os.environ.update(ours)
    daemon = StageDaemon(folder, ["--simulated", "--probes", "off", *daemon_arguments])
    try:
        with simulated_gpu(SIMULATION.with_name(f"{SIMULATION.name}-{name}")) as docker:
            try:
                engine.start()
                make_image()
                daemon.start()
                yield Stage(daemon, folder, docker), engine
            finally:
                engine.remove()
                daemon.stop()
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable)
            else:
                os.environ[variable] = value
        shutil.rmtree(folder, ignore_errors=True)  # mounts may take a moment to go


def clear(stage: Stage) -> None:
    """Remove all containers of the engine that commands talk to now, and wait until nothing is set aside."""
    left = output_of("docker", "ps", "--all", "--quiet").split()
    if left:
        output_of("docker", "rm", "--force", *left)
    wait_until("everything is free again", lambda: stage.snapshot()["gpus"][0]["assigned_bytes"] == 0)
