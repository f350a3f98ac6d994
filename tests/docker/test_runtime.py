# SPDX-License-Identifier: Apache-2.0
"""The runtime shim in an engine of its own, as `docker run --runtime=convgpu` and as its default runtime."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.oci.engine_settings import with_runtime
from convgpu.oci.launcher import launcher_text
from convgpu.testing.stage import (
    IMAGE,
    SIMULATED_STORY,
    SIMULATION,
    Stage,
    StageDaemon,
    StageError,
    make_image,
    output_of,
    simulated_gpu,
    wait_until,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd"),
]

CONTEXT_BYTES = 512 * MIB
LABELLED = "convgpu-stage-labelled:latest"


class Engine:
    """A dockerd with folders of its own, whose default runtime is ConvGPU's."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self._socket = folder / "docker.sock"
        self._log = folder / "dockerd.log"
        self._pid_file = folder / "dockerd.pid"
        config = folder / "daemon.json"
        config.write_text(with_runtime(None, str(runtime), default=True))
        self._command = [
            "dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--config-file", str(config),
            "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(self._pid_file),
            "--host", f"unix://{self._socket}",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        wait_until("the engine answers", self._answers, timeout_s=60)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StageError(f"the engine ended: {self._log.read_text()[-500:]}")
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def house(patch: pytest.MonkeyPatch) -> Iterator[tuple[Stage, Engine]]:
    folder = Path(tempfile.mkdtemp(prefix="cvg-engine-"))
    folder.chmod(0o755)
    patch.setenv("CONVGPU_RUN_DIR", str(folder / "run"))
    patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    runtime = folder / "convgpu-runtime"
    runtime.write_text(launcher_text(folder / "state"))
    runtime.chmod(0o755)
    engine = Engine(folder, runtime)
    patch.setenv("DOCKER_HOST", engine.host)
    daemon = StageDaemon(folder, ["--simulated", "--probes", "off", "--runtime-unlabelled", "pass"])
    with simulated_gpu(SIMULATION.with_name(f"{SIMULATION.name}-engine")) as docker:
        engine.start()
        try:
            make_image()
            make_image(LABELLED, changes=["LABEL convgpu.limit=3GiB"])
            daemon.start()
            yield Stage(daemon, folder, docker), engine
        finally:
            subprocess.run("docker rm -f $(docker ps -aq)", shell=True, check=False, capture_output=True)
            daemon.stop()
            engine.stop()
    subprocess.run("umount --lazy */data/overlay2/*/merged", shell=True, check=False, capture_output=True, cwd=folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def engine(house: tuple[Stage, Engine]) -> Engine:
    return house[1]


@pytest.fixture
def stage(house: tuple[Stage, Engine]) -> Iterator[Stage]:
    yield house[0]
    left = output_of("docker", "ps", "--all", "--quiet").split()
    if left:
        output_of("docker", "rm", "--force", *left)
    wait_until("everything is free again", lambda: house[0].snapshot()["gpus"][0]["assigned_bytes"] == 0)


Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def docker(stage: Stage) -> Docker:
    """`docker run` as anybody would, with the GPU but without a word of `convgpu run`."""

    def run(name: str, *options: str, steps: tuple[str, ...], image: str = IMAGE) -> subprocess.CompletedProcess[str]:
        words = ("docker", "run", "--name", name, "--network", "none", "-v", "/usr:/usr:ro", *stage.docker, *options)
        program = (SIMULATED_STORY, f"name={name}", *steps)
        return subprocess.run([*words, image, *program], capture_output=True, text=True, check=False, timeout=60)

    return run


def limited(*labels: str) -> tuple[str, ...]:
    return tuple(word for label in labels for word in ("--label", f"convgpu.{label}"))


def test_a_label_limits_a_container_that_docker_run_started(stage: Stage, docker: Docker) -> None:
    done = docker("plain", *limited("limit=2GiB"), steps=("alloc=1GiB", "try=1GiB", "info"))
    assert done.returncode == 0, done.stderr
    assert "step=try size_bytes=1073741824 code=cudaErrorMemoryAllocation" in done.stdout
    assert f"total_bytes={2 * GIB}" in done.stdout


def test_the_images_label_holds_where_the_container_has_none(stage: Stage, docker: Docker) -> None:
    assert f"total_bytes={3 * GIB}" in docker("image", steps=("info",), image=LABELLED).stdout
    own = docker("own", *limited("limit=1GiB"), steps=("info",), image=LABELLED)
    assert f"total_bytes={GIB}" in own.stdout


def test_a_container_without_labels_passes_unchanged(stage: Stage, docker: Docker) -> None:
    assert f"total_bytes={10 * GIB}" in docker("free", steps=("info",)).stdout
    mounts = output_of(
        "docker", "run", "--rm", "--network", "none", "-v", "/usr:/usr:ro", IMAGE, "/usr/bin/cat", "/proc/self/mounts"
    )
    assert "convgpu" not in mounts
    assert "ld.so.preload" not in mounts


@pytest.mark.parametrize("label", ["limit=much", "limit=11GiB", "limt=1GiB", "priority=high"])
def test_a_bad_label_starts_nothing_and_the_message_says_why(stage: Stage, docker: Docker, label: str) -> None:
    done = docker("bad", *limited(label), steps=("info",))
    assert done.returncode != 0
    assert done.stdout == ""
    assert "convgpu: " in done.stderr
    assert ("11GiB" if "11GiB" in label else f"convgpu.{label.partition('=')[0]}") in done.stderr


def test_docker_exec_is_limited_too(stage: Stage, docker: Docker) -> None:
    docker("shared", "-d", *limited("limit=2GiB"), steps=("alloc=1GiB", "hold=600"))
    wait_until("it has it", lambda: "shared" in stage.listing() and stage.device("shared")["used_bytes"] > GIB)
    said = output_of("docker", "exec", "shared", SIMULATED_STORY, "name=second", "try=1GiB", "info")
    assert "code=cudaErrorMemoryAllocation" in said


def test_a_start_waits_for_its_guarantee_where_its_label_says_so(stage: Stage, docker: Docker) -> None:
    docker("holder", "-d", *limited("limit=6GiB"), steps=("alloc=1GiB", "wait-file=/stage/never", "exit=0"))
    wait_until("it is known", lambda: "holder" in stage.listing())
    started = threading.Event()

    def start() -> None:
        docker("patient", "-d", *limited("limit=6GiB", "admit=wait"), steps=("alloc=4GiB", "hold=600"))
        started.set()

    thread = threading.Thread(target=start)
    thread.start()
    stage.log().wait("start.suspended", "patient")
    assert not started.wait(0.5), "docker run itself waits"
    output_of("docker", "kill", "holder")
    thread.join(30)
    assert started.is_set()
    stage.log().wait("start.admitted", "patient")
    wait_until("it runs", lambda: stage.device("patient")["used_bytes"] == CONTEXT_BYTES + 4 * GIB)
    output_of("docker", "restart", "--time", "0", "patient")
    wait_until("it runs again", lambda: "patient" in stage.listing())


def test_convgpu_run_and_the_runtime_do_not_add_the_same_twice(stage: Stage) -> None:
    cat = ("/usr/bin/cat", "/etc/ld.so.preload", "/proc/self/mounts")
    words = ("--rm", "--network", "none", "-v", "/usr:/usr:ro", IMAGE, *cat)
    preload, *mounts = output_of("convgpu", "run", "--limit", "1GiB", "--", *words).splitlines()
    assert preload == "/.convgpu/libconvgpu.so"
    assert sum(" /etc/ld.so.preload " in line for line in mounts) == 1


def test_without_a_daemon_a_container_starts_and_its_allocations_wait(stage: Stage, docker: Docker) -> None:
    stage.daemon.stop()
    try:
        done = docker("early", "-d", *limited("limit=2GiB"), steps=("alloc=1GiB", "hold=600"))
        assert done.returncode == 0, done.stderr
        bad = docker("worse", "-d", *limited("limit=much"), steps=("info",))
        assert bad.returncode != 0
        assert "convgpu.limit" in bad.stderr
    finally:
        stage.daemon.start()
    wait_until("it has it", lambda: stage.device("early")["used_bytes"] == CONTEXT_BYTES + GIB)


def test_a_restarted_engine_starts_them_again_before_there_is_a_daemon(
    stage: Stage, docker: Docker, engine: Engine
) -> None:
    docker("always", "-d", "--restart", "always", *limited("limit=2GiB"), steps=("alloc=1GiB", "hold=600"))
    wait_until("it has it", lambda: "always" in stage.listing() and stage.device("always")["used_bytes"] > GIB)
    engine.stop()
    stage.daemon.stop()
    shutil.rmtree(stage.daemon.run_dir)  # as a reboot empties /run
    engine.start()
    assert json.loads(output_of("docker", "inspect", "-f", "{{json .State.Running}}", "always"))
    stage.daemon.start()
    wait_until("it has it again", lambda: stage.device("always")["used_bytes"] == CONTEXT_BYTES + GIB)
