# SPDX-License-Identifier: Apache-2.0
"""A newer Docker than the distribution's, with user namespaces: all ways in, the CDI device among them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.engine import NEWER, SUBORDINATES, Engine, clear, engine_stage, has_newer
from convgpu.testing.stage import IMAGE, SIMULATED_STORY, Stage, make_image, output_of, wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.skipif(not has_newer(), reason="tools/newer-docker found none"),
]

CONTEXT_BYTES = 512 * MIB
MISLABELLED = "convgpu-stage-mislabelled:latest"
MUSL = "convgpu-stage-musl:latest"
BY_CDI = ("--device", "convgpu.dev/guard=default")
BY_RUNTIME = ("--runtime", "convgpu")
WAYS = pytest.mark.parametrize("way", [BY_CDI, BY_RUNTIME], ids=["cdi", "runtime"])
Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[Stage, Engine]]:
    with engine_stage("newer", programs=NEWER, remapped=True) as (stage, engine):
        config = engine.folder / "config.toml"
        config.write_text(f'state_dir = "{engine.folder}/state"\nrun_dir = "{engine.folder}/run"\n')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CONVGPU_CONFIG", str(config))
            output_of("convgpu", "cdi", "generate", "--output", str(engine.cdi / "convgpu.json"))
        make_image(MISLABELLED, changes=["LABEL convgpu.limit=3GB/s"])
        make_image(MUSL, {"usr/lib/ld-musl-x86_64.so.1": b""})
        yield stage, engine


@pytest.fixture
def stage(house: tuple[Stage, Engine]) -> Iterator[Stage]:
    yield house[0]
    clear(house[0])


@pytest.fixture
def docker(stage: Stage) -> Docker:
    """`docker run` with the GPU."""

    def run(name: str, *options: str, steps: tuple[str, ...], image: str = IMAGE) -> subprocess.CompletedProcess[str]:
        words = ("docker", "run", "--name", name, "--network", "none", "-v", "/usr:/usr:ro", *stage.docker, *options)
        program = (SIMULATED_STORY, f"name={name}", *steps)
        return subprocess.run([*words, image, *program], capture_output=True, text=True, check=False, timeout=60)

    return run


def limit(text: str) -> tuple[str, str]:
    return "--label", f"convgpu.limit={text}"


def test_the_engine_is_a_newer_one_and_its_containers_have_users_of_their_own(stage: Stage, docker: Docker) -> None:
    assert int(output_of("docker", "version", "-f", "{{.Server.Version}}").partition(".")[0]) >= 26
    docker("mapped", "-d", steps=("hold=600",))
    pid = output_of("docker", "inspect", "-f", "{{.State.Pid}}", "mapped").strip()
    assert Path(f"/proc/{pid}").stat().st_uid == SUBORDINATES[2]


@WAYS
def test_a_label_limits_a_container_and_what_is_executed_in_it(
    stage: Stage, docker: Docker, way: tuple[str, ...]
) -> None:
    docker("guarded", "-d", *way, *limit("2GiB"), steps=("alloc=1GiB", "try=1GiB", "info", "hold=600"))
    said = wait_until("it is through", lambda: "info" in (log := output_of("docker", "logs", "guarded")) and log)
    assert "step=try size_bytes=1073741824 code=cudaErrorMemoryAllocation" in said
    assert f"total_bytes={2 * GIB}" in said
    assert stage.device("guarded")["used_bytes"] == CONTEXT_BYTES + GIB
    executed = ("docker", "exec", "--user", "65534:65534", "guarded", SIMULATED_STORY, "name=second", "try=512MiB")
    assert "code=cudaErrorMemoryAllocation" in output_of(*executed)


@WAYS
def test_an_annotation_goes_before_a_label(stage: Stage, docker: Docker, way: tuple[str, ...]) -> None:
    done = docker("both", *way, *limit("2GiB"), "--annotation", "convgpu.limit=3GiB", steps=("info",))
    assert f"total_bytes={3 * GIB}" in done.stdout


@WAYS
@pytest.mark.parametrize(
    ("options", "image", "said"),
    [
        (limit("much"), IMAGE, "label convgpu.limit: 'much' is not a size"),
        (("--label", "convgpu.limt=1GiB"), IMAGE, "label convgpu.limt: no such label"),
        (("--annotation", "convgpu.limit=much"), IMAGE, "label convgpu.limit: 'much' is not a size"),
        (limit("11GiB"), IMAGE, "11GiB is more than a device here can give"),
        ((), MISLABELLED, "label convgpu.limit: '3GB/s' is not a size"),
        (limit("1GiB"), MUSL, "built on musl"),
    ],
    ids=["value", "name", "annotation", "too much", "image", "musl"],
)
def test_what_cannot_be_held_to_its_limit_does_not_start_and_docker_says_why(
    stage: Stage, docker: Docker, way: tuple[str, ...], options: tuple[str, ...], image: str, said: str
) -> None:
    done = docker("never", *way, *options, steps=("info",), image=image)
    assert (done.returncode, done.stdout) == (125 if way == BY_RUNTIME else done.returncode, "")
    assert done.returncode != 0
    assert said in done.stderr


def test_an_unknown_device_starts_nothing(stage: Stage, docker: Docker) -> None:
    done = docker("never", "--device", "convgpu.dev/guard=other", steps=("info",))
    assert done.returncode == 125
    assert "convgpu.dev/guard=other" in done.stderr


@pytest.mark.parametrize("namespace", [(), ("--userns", "host")], ids=["remapped", "the host's"])
def test_convgpu_run_in_either_user_namespace(stage: Stage, namespace: tuple[str, ...]) -> None:
    container = stage.story("alone", "2GiB", "alloc=1GiB", "try=1GiB", "info", "hold=600", docker=namespace)
    assert int(container.wait_for("info")["total_bytes"]) == 2 * GIB
    assert container.step("try")["code"] == "cudaErrorMemoryAllocation"
    assert stage.device("alone")["used_bytes"] == CONTEXT_BYTES + GIB
    output_of("docker", "kill", "alone")
    wait_until("all is free", lambda: stage.snapshot()["gpus"][0]["assigned_bytes"] == 0)
