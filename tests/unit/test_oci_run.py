# SPDX-License-Identifier: Apache-2.0
"""What `convgpu run` adds to `docker run`, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.core.units import GIB
from convgpu.errors import UsageError
from convgpu.oci.arguments import parse_run_arguments
from convgpu.oci.labels import parse_labels
from convgpu.oci.run import (
    LIBRARY_TARGET,
    LIBRARY_TARGET_ASIDE,
    HostFiles,
    RunSettings,
    Wait,
    check_conflicts,
    docker_create_arguments,
    docker_run_arguments,
    docker_start_arguments,
    library_target,
)

FILES = HostFiles(
    library=Path("/opt/n/libconvgpu.so"), preload=Path("/run/c/preload/x"), client_dir=Path("/run/c/client")
)


def command(*user_arguments, **settings):
    return docker_run_arguments(RunSettings(**{"limit_bytes": GIB, **settings}), user_arguments, FILES)


def test_labels_and_three_mounts_and_nothing_else():
    assert command("-it", "--rm", "image", "sh") == [
        "docker", "run",
        "--label", "convgpu.limit=1073741824",
        "--mount", "type=bind,source=/opt/n/libconvgpu.so,target=/usr/local/lib/convgpu/libconvgpu.so,readonly",
        "--mount", "type=bind,source=/run/c/preload/x,target=/etc/ld.so.preload,readonly",
        "--mount", "type=bind,source=/run/c/client,target=/run/convgpu,readonly",
        "-it", "--rm", "image", "sh",
    ]  # fmt: skip


def test_the_daemon_reads_from_the_labels_what_was_asked_for():
    settings = RunSettings(limit_bytes=4 * GIB, guarantee_bytes=0, wait=Wait(90_000_000_000), priority=7)
    read = parse_labels(settings.labels())
    assert (read.limit_bytes, read.guarantee_bytes, read.wait_ns, read.priority) == (4 * GIB, 0, 90_000_000_000, 7)


def test_waiting_without_end_is_said_because_the_image_may_say_otherwise():
    assert RunSettings(limit_bytes=GIB, wait=Wait(None)).labels()["convgpu.wait"] == "none"
    assert "convgpu.wait" not in RunSettings(limit_bytes=GIB).labels()


@pytest.mark.parametrize(
    "options",
    [
        ("--label", "convgpu.limit=9GiB"),
        ("-l", "convgpu.guarantee=0"),
        ("--label=convgpu.wait",),
        ("-v", "/my/preload:/etc/ld.so.preload"),
        ("--mount", "type=bind,source=/x,dst=/etc/../etc/ld.so.preload"),
        ("-v", "/x:/run/convgpu"),
        ("--tmpfs", "/run/convgpu"),
        ("-v", "/etc:/etc:ro"),
    ],
)
def test_what_would_undo_the_limit_is_refused_and_named(options):
    with pytest.raises(UsageError) as refused:
        command(*options, "image")
    assert options[-1].partition("=")[0] in refused.value.message or options[-1] in refused.value.message
    assert refused.value.next_step


def test_labels_in_a_file_are_checked_too():
    arguments = parse_run_arguments(["--label-file", "my.labels", "image"])
    check_conflicts(arguments, {"my.labels": ["a=b"]})
    with pytest.raises(UsageError, match=r"convgpu\.limit .*my\.labels"):
        check_conflicts(arguments, {"my.labels": ["a=b", "convgpu.limit=1GiB"]})


@pytest.mark.parametrize("options", [("--tmpfs", "/run"), ("-v", "data:/etc/app"), ("-v", "/etc/hosts:/etc/hosts:ro")])
def test_ordinary_mounts_near_by_are_no_conflict(options):
    assert command(*options, "image")[-3:] == [*options, "image"]


def test_the_library_goes_aside_where_the_host_is_mounted_over_usr():
    assert library_target(parse_run_arguments(["-v", "/usr:/usr:ro", "image"])) == LIBRARY_TARGET_ASIDE
    assert library_target(parse_run_arguments(["-v", "usr-volume:/usr", "image"])) == LIBRARY_TARGET
    assert f"target={LIBRARY_TARGET_ASIDE}," in " ".join(command("-v", "/usr:/usr:ro", "image"))


@pytest.mark.parametrize(
    ("user_arguments", "created", "started"),
    [
        (["image"], ["image"], ["--attach"]),
        (["-d", "--name", "n", "image", "sh", "-c", "x -d"], ["--name=n", "image", "sh", "-c", "x -d"], []),
        (
            ["-dit", "--rm", "-v/a:/b", "-e", "A=1", "image"],
            ["--interactive=true", "--tty=true", "--rm=true", "--volume=/a:/b", "--env=A=1", "image"],
            [],
        ),
        (["-it", "image"], ["--interactive=true", "--tty=true", "image"], ["--attach", "--interactive"]),
        (["--detach=false", "--sig-proxy=false", "image"], ["image"], ["--attach"]),
        (["--detach-keys", "ctrl-x", "-a", "stderr", "image"], ["--attach=stderr", "image"],
         ["--attach", "--detach-keys=ctrl-x"]),
        (["--gpus", "all", "--", "image", "-d"], ["--gpus=all", "image", "-d"], ["--attach"]),
    ],
)  # fmt: skip
def test_a_start_that_waits_is_created_and_then_started_as_run_would(user_arguments, created, started):
    command = docker_create_arguments(RunSettings(limit_bytes=GIB), user_arguments, FILES)
    assert command[:2] == ["docker", "create"]
    assert command[2:10:2] == ["--label", "--mount", "--mount", "--mount"]
    assert command[10:] == created
    assert docker_start_arguments("4f1c", user_arguments) == ["docker", "start", *started, "4f1c"]


def test_a_start_that_waits_needs_arguments_that_are_understood():
    with pytest.raises(UsageError, match="`--new-thing` is not an option that ConvGPU knows") as caught:
        docker_create_arguments(RunSettings(limit_bytes=GIB), ["--new-thing", "image"], FILES)
    assert caught.value.next_step is not None
