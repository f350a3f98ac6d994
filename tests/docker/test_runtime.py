# SPDX-License-Identifier: Apache-2.0
"""The runtime shim in an engine of its own, as `docker run --runtime=convgpu` and as its default runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.engine import NEWER, Engine, clear, engine_stage
from convgpu.testing.stage import (
    IMAGE,
    SIMULATED_STORY,
    Stage,
    make_image,
    output_of,
    wait_until,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd"),
]

CONTEXT_BYTES = 512 * MIB
COMPOSE_PLUGIN = NEWER / "usr/libexec/docker/cli-plugins/docker-compose"
LABELLED = "convgpu-stage-labelled:latest"
MISLABELLED = "convgpu-stage-mislabelled:latest"
NVIDIA_LIKE = """#!/bin/sh
# As nvidia-container-runtime does: puts a prestart hook into the bundle's config.json at `create`, then becomes runc.
bundle= create=
for word; do
    [ "$before" = --bundle ] && bundle=$word
    [ "$word" = create ] && create=1
    before=$word
done
[ -n "$create" ] && {python} -c '
import json, sys
path = sys.argv[1] + "/config.json"
config = json.load(open(path))
hook = {{"path": sys.argv[2], "args": ["nvidia-container-runtime-hook", "prestart"]}}
config.setdefault("hooks", {{}}).setdefault("prestart", []).append(hook)
json.dump(config, open(path, "w"))
' "$bundle" {hook}
exec runc "$@"
"""
NVIDIA_LIKE_HOOK = """#!/bin/sh
# As nvidia-container-runtime-hook does: is told the container's state, and changes what the container will see.
bundle=$(sed 's/.*"bundle":"\\([^"]*\\)".*/\\1/')
grep -c '"/run/convgpu"' "$bundle/config.json" >{found} || true
"""


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[Stage, Engine]]:
    daemon = ("--runtime-unlabelled", "pass", "--default-limit", "4GiB")
    settings = {"default-runtime": "convgpu", "experimental": True}
    with engine_stage("engine", daemon, settings) as (stage, engine):
        make_image(LABELLED, changes=["LABEL convgpu.limit=3GiB"])
        make_image(MISLABELLED, changes=["LABEL convgpu.limit=3GB/s"])
        yield stage, engine


@pytest.fixture
def engine(house: tuple[Stage, Engine]) -> Engine:
    return house[1]


@pytest.fixture
def stage(house: tuple[Stage, Engine]) -> Iterator[Stage]:
    yield house[0]
    clear(house[0])


@pytest.fixture
def published(stage: Stage) -> Iterator[Callable[..., None]]:
    """Change what the daemon published for the runtime; what it was comes back after the test."""
    file = stage.folder / "state" / "runtime"
    before = file.read_text()

    def publish(**settings: str) -> None:
        lines = dict(line.split("=", 1) for line in before.splitlines()) | settings
        file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    yield publish
    file.write_text(before)


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


def test_a_bad_label_of_the_image_starts_nothing_either(stage: Stage, docker: Docker) -> None:
    done = docker("image", steps=("info",), image=MISLABELLED)
    assert (done.returncode, done.stdout) == (125, "")
    assert "label convgpu.limit: '3GB/s' is not a size" in done.stderr
    usr = ("--rm", "--network", "none", "-v", "/usr:/usr:ro")
    by_command = ["convgpu", "run", "--limit", "1GiB", "--", *usr, MISLABELLED, "/usr/bin/true"]
    done = subprocess.run(by_command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the limit of the command goes before the image's: {done.stderr}"


def test_without_a_label_the_configured_default_holds(
    stage: Stage, docker: Docker, published: Callable[..., None]
) -> None:
    published(unlabelled="guard")
    done = docker("default", steps=("try=4GiB", "info"))
    assert "step=try size_bytes=4294967296 code=cudaErrorMemoryAllocation" in done.stdout
    assert f"total_bytes={4 * GIB}" in done.stdout
    assert stage.log().wait("container.seen", "default")["source"] == "default"


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
    docker(
        "always",
        "-d",
        "--restart",
        "always",
        "--stop-timeout",
        "1",
        *limited("limit=2GiB"),
        steps=("alloc=1GiB", "hold=600"),
    )
    wait_until("it has it", lambda: "always" in stage.listing() and stage.device("always")["used_bytes"] > GIB)
    engine.stop()
    stage.daemon.stop()
    shutil.rmtree(stage.daemon.run_dir)  # as a reboot empties /run
    engine.start()
    assert json.loads(output_of("docker", "inspect", "-f", "{{json .State.Running}}", "always"))
    stage.daemon.start()
    wait_until("it has it again", lambda: stage.device("always")["used_bytes"] == CONTEXT_BYTES + GIB)


def test_without_a_daemon_nothing_starts_where_that_is_the_policy(
    stage: Stage, docker: Docker, published: Callable[..., None]
) -> None:
    stage.daemon.stop()
    try:
        published(daemon_absent="refuse")
        refused = docker("early", *limited("limit=2GiB"), steps=("info",))
        assert (refused.returncode, refused.stdout) == (125, "")
        assert "no ConvGPU daemon answers" in refused.stderr
        assert "runtime_daemon_absent" in refused.stderr
        assert docker("free", steps=("info",)).returncode == 0, "who has no limit needs no daemon"
    finally:
        stage.daemon.start()


def test_an_engine_that_restarts_under_its_containers_loses_nothing(
    stage: Stage, docker: Docker, engine: Engine
) -> None:
    engine.settings["live-restore"] = True
    engine.reload()
    wait_until("it will let them live", lambda: "true" in output_of("docker", "info", "-f", "{{.LiveRestoreEnabled}}"))
    try:
        steps = ("alloc=1GiB", "wait-file=/stage/go", "alloc=512MiB", "wait-file=/stage/end", "exit=0")
        docker("steady", "-d", "-v", f"{stage.folder}:/stage", *limited("limit=2GiB"), steps=steps)
        wait_until("it has it", lambda: "steady" in stage.listing() and stage.device("steady")["used_bytes"] > GIB)
        engine.stop()
        stage.tell("go")  # nobody needs Docker to allocate
        wait_until("it has more", lambda: stage.device("steady")["used_bytes"] == CONTEXT_BYTES + GIB + 512 * MIB)
        engine.start()
        assert stage.device("steady")["used_bytes"] == CONTEXT_BYTES + GIB + 512 * MIB
        said = output_of("docker", "exec", "steady", SIMULATED_STORY, "name=second", "try=512MiB")
        assert "code=cudaErrorMemoryAllocation" in said
        output_of("docker", "rename", "steady", "steadier")
        wait_until("events are heard again", lambda: "steadier" in stage.listing())
        stage.tell("end")
        wait_until("its end is seen", lambda: "steadier" not in stage.listing())
        seen = [record for record in stage.log().follow() if record["type"] == "container.seen"]
        assert sum(record["container"]["name"] == "steady" for record in seen) == 1
    finally:
        del engine.settings["live-restore"]
        engine.reload()
        for name in ("go", "end"):
            (stage.folder / name).unlink(missing_ok=True)


def test_a_container_of_before_the_installation_starts_as_it_was_made(
    stage: Stage, docker: Docker, engine: Engine
) -> None:
    """Docker keeps the runtime with which it made a container: it is made anew to be guarded."""
    engine.settings["default-runtime"] = "runc"
    engine.reload()
    wait_until("it is as before", lambda: output_of("docker", "info", "-f", "{{.DefaultRuntime}}").strip() == "runc")
    docker("old", "-d", steps=("info", "alloc=3GiB", "hold=600"))
    output_of("docker", "kill", "old")
    engine.settings["default-runtime"] = "convgpu"
    engine.reload()
    wait_until("it is ours", lambda: output_of("docker", "info", "-f", "{{.DefaultRuntime}}").strip() == "convgpu")
    output_of("docker", "start", "old")
    assert output_of("docker", "inspect", "-f", "{{.HostConfig.Runtime}}", "old").strip() == "runc"
    wait_until("it allocates unasked", lambda: "alloc" in output_of("docker", "logs", "old"))
    assert "old" not in stage.listing()
    wait_until("what it holds is nobody's to give", lambda: stage.snapshot()["gpus"][0]["external_bytes"] >= 3 * GIB)
    output_of("docker", "rm", "--force", "old")
    assert f"total_bytes={2 * GIB}" in docker("old", *limited("limit=2GiB"), steps=("info",)).stdout


def test_a_checkpoint_of_a_guarded_container_is_refused_and_it_goes_on(stage: Stage, docker: Docker) -> None:
    docker("kept", "-d", *limited("limit=2GiB"), steps=("alloc=1GiB", "hold=600"))
    wait_until("it has it", lambda: "kept" in stage.listing() and stage.device("kept")["used_bytes"] > GIB)
    words = ["docker", "checkpoint", "create", "kept", "first"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "a container that ConvGPU guards cannot have one" in done.stderr
    assert output_of("docker", "inspect", "-f", "{{.State.Status}}", "kept").strip() == "running"
    assert stage.device("kept")["used_bytes"] == CONTEXT_BYTES + GIB


def test_a_next_runtime_that_rewrites_the_bundle_with_hooks_does_its_part(
    stage: Stage, docker: Docker, published: Callable[..., None], tmp_path: Path
) -> None:
    """A stand-in for nvidia-container-runtime, which is not to be had here."""
    found, hook, runtime = tmp_path / "found", tmp_path / "hook", tmp_path / "nvidia-container-runtime"
    hook.write_text(NVIDIA_LIKE_HOOK.format(found=found))
    runtime.write_text(NVIDIA_LIKE.format(python=sys.executable, hook=hook))
    for program in (hook, runtime):
        program.chmod(0o755)
    published(next=str(runtime))
    done = docker("both", *limited("limit=2GiB"), steps=("info",))
    assert done.returncode == 0, done.stderr
    assert f"total_bytes={2 * GIB}" in done.stdout
    assert found.read_text() == "1\n", "its hook ran, on a bundle that has our mounts"
    found.unlink()
    assert f"total_bytes={10 * GIB}" in docker("free", steps=("info",)).stdout
    assert found.read_text() == "0\n", "and on one that has not"


COMPOSE = """
services:
  trainer: &service
    image: {image}
    runtime: convgpu
    network_mode: none
    command: [{story}, name=trainer, alloc=1GiB, try=2GiB, info, hold=600]
    environment: {{LD_LIBRARY_PATH: {libraries}}}
    volumes: {volumes}
    labels: {{convgpu.limit: 2GiB}}
  server:
    <<: *service
    command: [{story}, name=server, try=2GiB, info, hold=600]
    scale: 2
    labels: {{convgpu.limit: 3GiB, convgpu.guarantee: "0"}}
  free:
    <<: *service
    command: [{story}, name=free, info, hold=600]
    labels: {{}}
"""


@pytest.mark.skipif(not COMPOSE_PLUGIN.exists(), reason="no docker compose")
def test_each_service_of_a_compose_project_has_its_own_limit(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir()
    plugin.symlink_to(COMPOSE_PLUGIN)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    volumes = [stage.docker[place + 1] for place, word in enumerate(stage.docker) if word == "-v"]
    libraries = next(word.partition("=")[2] for word in stage.docker if word.startswith("LD_LIBRARY_PATH="))
    file = tmp_path / "compose.yaml"
    file.write_text(
        COMPOSE.format(
            image=IMAGE, story=SIMULATED_STORY, libraries=libraries, volumes=json.dumps(["/usr:/usr:ro", *volumes])
        )
    )
    compose = ("docker", "compose", "--project-name", "lab", "--file", str(file))
    output_of(*compose, "up", "--detach")
    names = {"lab-trainer-1": 2 * GIB, "lab-server-1": 3 * GIB, "lab-server-2": 3 * GIB}
    wait_until("all are known", lambda: set(stage.listing()) == set(names))
    for name, limit_bytes in {**names, "lab-free-1": 10 * GIB}.items():
        said = wait_until(
            "it is through", lambda name=name: "total_bytes=" in (log := output_of("docker", "logs", name)) and log
        )
        assert f"total_bytes={limit_bytes}" in said
    assert stage.device("lab-trainer-1")["used_bytes"] == CONTEXT_BYTES + GIB
    assert "code=cudaErrorMemoryAllocation" in output_of("docker", "logs", "lab-trainer-1")
    assert stage.device("lab-server-2")["used_bytes"] == CONTEXT_BYTES + 2 * GIB
    output_of(*compose, "restart", "--timeout", "0", "trainer")
    wait_until("it has it again", lambda: stage.device("lab-trainer-1")["used_bytes"] == CONTEXT_BYTES + GIB)
    output_of(*compose, "down", "--timeout", "0")
    wait_until("all is free", lambda: stage.snapshot()["gpus"][0]["assigned_bytes"] == 0)
