# SPDX-License-Identifier: Apache-2.0
"""Every turn of a container's life, on a real engine: what it held is free at its end, and nothing is lost before."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.stage import IMAGE, SIMULATED_STORY, Stage, make_image, output_of, wait_until

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse]

CONTEXT_BYTES = 512 * MIB
HELD_BYTES = CONTEXT_BYTES + GIB
CROWD = 100
HOG = "b = bytearray(1 << 30); b[::4096] = b'x' * len(b[::4096])"


def assigned(stage: Stage) -> int:
    figure: int = stage.snapshot()["gpus"][0]["assigned_bytes"]
    return figure


def seen(stage: Stage, name: str) -> int:
    """How often a container of that name was registered."""
    log = stage.log()
    log.follow()
    return sum(
        (record["type"], (record.get("container") or {}).get("name")) == ("container.seen", name)
        for record in log.records
    )


@pytest.fixture
def images() -> Iterator[list[str]]:
    """The names of images that a test makes; removed after it."""
    made: list[str] = []
    yield made
    for name in made:
        subprocess.run(["docker", "rmi", "--force", name], check=False, capture_output=True)


def test_an_exit_keeps_its_status_and_gives_everything_back(stage: Stage) -> None:
    container = stage.story("leaver", "4GiB", "alloc=1GiB", "exit=3")
    assert container.exit_code() == 3
    stage.log().wait("container.gone", "leaver")
    assert assigned(stage) == 0


def test_a_container_killed_by_the_out_of_memory_killer_gives_everything_back(stage: Stage) -> None:
    limits = ("--memory", "256m", "--memory-swap", "256m")
    container = stage.container("hog", "4GiB", docker=limits)
    story = f"{SIMULATED_STORY} name=hog alloc=1GiB hold=600"
    container.run("/bin/sh", "-c", f'{story} & while [ ! -e /stage/go ]; do sleep 0.05; done; exec python3 -c "{HOG}"')
    container.wait_for("alloc")
    assert stage.device("hog")["used_bytes"] == HELD_BYTES
    stage.tell("go")
    assert container.exit_code() == 137
    assert output_of("docker", "inspect", "-f", "{{.State.OOMKilled}}", "hog").strip() == "true"
    stage.log().wait("container.gone", "hog")
    wait_until("it is free", lambda: assigned(stage) == 0)


def test_a_paused_container_keeps_what_it_has_and_goes_on(stage: Stage) -> None:
    container = stage.story(
        "sleeper", "2GiB", "alloc=1GiB", "wait-file=/stage/awake", "alloc=128MiB", "info", "hold=600"
    )
    container.wait_for("alloc")
    output_of("docker", "pause", "sleeper")
    wait_until("it is seen to be paused", lambda: stage.listing()["sleeper"]["state"] == "paused")
    assert stage.device("sleeper")["used_bytes"] == HELD_BYTES
    output_of("docker", "unpause", "sleeper")
    wait_until("it is seen to run", lambda: stage.listing()["sleeper"]["state"] == "running")
    stage.tell("awake")
    container.wait_for("info")
    assert stage.device("sleeper")["used_bytes"] == HELD_BYTES + 128 * MIB


def test_a_restart_policy_registers_each_life_anew(stage: Stage) -> None:
    container = stage.story("phoenix", "2GiB", "alloc=64MiB", "exit=1", docker=("--restart", "on-failure:2"))
    wait_until("it has lived three times", lambda: len(container.lines()) >= 9)
    assert all(line["code"] == "cudaSuccess" for line in container.lines() if line["step"] == "alloc")
    wait_until("it is over", lambda: output_of("docker", "inspect", "-f", "{{.State.Status}}", "phoenix") == "exited\n")
    wait_until("its share is free", lambda: assigned(stage) == 0)
    assert seen(stage, "phoenix") == 3


def test_docker_restart_begins_with_nothing_held(stage: Stage) -> None:
    container = stage.story("again", "2GiB", "alloc=1GiB", "hold=600")
    container.wait_for("alloc")
    output_of("docker", "restart", "--time", "0", "again")
    wait_until("it has it again", lambda: len([line for line in container.lines() if line["step"] == "alloc"]) == 2)
    assert stage.device("again")["used_bytes"] == HELD_BYTES
    assert assigned(stage) == 2 * GIB


def test_a_renamed_container_is_the_same(stage: Stage) -> None:
    stage.story("before", "2GiB", "alloc=1GiB", "hold=600").wait_for("alloc")
    stage.names.append("after")
    output_of("docker", "rename", "before", "after")
    wait_until("it has its new name", lambda: "after" in stage.listing())
    assert "before" not in stage.listing()
    assert stage.device("after")["used_bytes"] == HELD_BYTES
    output_of("convgpu", "limit", "set", "after", "3GiB")
    assert stage.device("after")["limit_bytes"] == 3 * GIB


def test_docker_update_changes_nothing_of_ours(stage: Stage) -> None:
    stage.story("updated", "2GiB", "alloc=1GiB", "hold=600").wait_for("alloc")
    before = stage.device("updated")
    output_of("docker", "update", "--cpu-shares", "512", "updated")
    assert stage.device("updated") == before


def test_another_users_process_by_docker_exec_is_limited_too(stage: Stage, command: Any) -> None:
    stage.story("shared", "2GiB", "alloc=1GiB", "hold=600").wait_for("alloc")
    story = (SIMULATED_STORY, "name=second", "try=1GiB", "info")
    done = command("docker", "exec", "--user", "65534:65534", "shared", *story)
    assert done.returncode == 0, done.stderr
    assert "step=try size_bytes=1073741824 code=cudaErrorMemoryAllocation" in done.stdout
    assert f"total_bytes={2 * GIB}" in done.stdout


def test_an_image_committed_from_a_guarded_container_can_have_another_limit(stage: Stage, images: list[str]) -> None:
    stage.story("origin", "1GiB", "alloc=128MiB", "exit=0").exit_code()
    images.append("convgpu-stage-committed:latest")
    output_of("docker", "commit", "origin", images[0])
    container = stage.container("offspring", "3GiB")
    container.run(SIMULATED_STORY, "name=offspring", "alloc=2GiB", "info", "hold=600", image=images[0])
    assert int(container.wait_for("info")["total_bytes"]) == 3 * GIB
    assert stage.device("offspring")["limit_bytes"] == 3 * GIB


@pytest.mark.parametrize(
    "options",
    [
        ("--user", "65534:65534"),
        ("--read-only",),
        ("--pid", "host"),
        ("--ipc", "host"),
        ("--privileged",),
        ("--cgroup-parent", "/convgpu-test-parent"),
        ("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        ("--tmpfs", "/run"),
    ],
    ids=lambda options: options[0].lstrip("-"),
)
def test_the_limit_holds_whatever_else_is_asked_of_docker(stage: Stage, options: tuple[str, ...]) -> None:
    bare = ("docker", "run", "--rm", "--network", "none", "-v", "/usr:/usr:ro", *options, IMAGE, "/usr/bin/true")
    done = subprocess.run(bare, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Docker itself cannot do it here: {done.stderr.strip()}")
    container = stage.story("guest", "2GiB", "alloc=1GiB", "try=1GiB", "info", "hold=600", docker=options)
    assert int(container.wait_for("info")["total_bytes"]) == 2 * GIB
    assert container.step("try")["code"] == "cudaErrorMemoryAllocation"
    assert stage.device("guest")["used_bytes"] == HELD_BYTES


def test_two_containers_of_one_image_have_limits_of_their_own(stage: Stage) -> None:
    for name, limit in (("small", "1GiB"), ("large", "4GiB")):
        stage.story(name, limit, "try=2GiB", "info", "hold=600").wait_for("info")
    assert stage.device("small")["used_bytes"] == CONTEXT_BYTES
    assert stage.device("large")["used_bytes"] == CONTEXT_BYTES + 2 * GIB


def test_a_container_starts_again_after_a_reboot_before_there_is_a_daemon(stage: Stage) -> None:
    container = stage.story("survivor", "2GiB", "alloc=1GiB", "exit=0")
    container.exit_code()
    stage.daemon.stop()
    shutil.rmtree(stage.daemon.run_dir)  # as a reboot empties /run
    output_of("docker", "start", "survivor")
    starts = wait_until("it runs", lambda: [line for line in container.lines() if line["step"] == "start"][1:])
    assert starts
    assert len([line for line in container.lines() if line["step"] == "alloc"]) == 1, "the second one waits"
    stage.daemon.start()
    wait_until("it has it", lambda: len([line for line in container.lines() if line["step"] == "alloc"]) == 2)
    assert container.lines()[-1]["step"] in ("alloc", "exit")


def test_an_image_on_musl_is_refused_and_makes_no_container(stage: Stage, images: list[str], command: Any) -> None:
    images.append("convgpu-stage-musl:latest")
    make_image(images[0], {"usr/lib/ld-musl-x86_64.so.1": b""})
    done = command("convgpu", "run", "--limit", "1GiB", "--", "--name", "never", images[0], "true")
    assert done.returncode == 2
    assert "is built on musl" in done.stderr
    assert "next: use an image built on glibc" in done.stderr
    assert command("docker", "inspect", "never").returncode != 0


@pytest.mark.timeout(600)
def test_a_hundred_containers_at_once_are_all_known_and_all_gone(stage: Stage) -> None:
    names = [f"crowd-{number}" for number in range(CROWD)]
    containers = [stage.container(name, "64MiB") for name in names]

    def crowd() -> set[str]:
        return {info["name"] for info in json.loads(output_of("convgpu", "limit", "ls", "--format", "json"))}

    with ThreadPoolExecutor(8) as starters:
        list(starters.map(lambda container: container.run("/usr/bin/sleep", "600"), containers))
    wait_until("all are known", lambda: crowd() == set(names))
    listed = output_of("docker", "ps", "--no-trunc", "--quiet").split()
    known = {entry["container_id"] for entry in json.loads(output_of("convgpu", "ps", "--format", "json"))}
    assert known == {container.id for container in containers}
    assert known <= set(listed)
    assert assigned(stage) == CROWD * 64 * MIB
    output_of("docker", "kill", *names)
    wait_until("all are gone", lambda: crowd() == set(), timeout_s=120)
    assert assigned(stage) == 0
    assert all(seen(stage, name) == 1 for name in names)
    output_of("docker", "rm", "--force", *names)


def test_the_image_of_the_stage_has_no_limit_of_its_own() -> None:
    """The labels above come from `convgpu run`, not from the image."""
    assert output_of("docker", "inspect", "-f", "{{json .Config.Labels}}", IMAGE).strip() in ("null", "{}")
