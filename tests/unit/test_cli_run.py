# SPDX-License-Identifier: Apache-2.0
"""`convgpu run`: what it checks, and that it becomes `docker run`.

`docker` is a script that records its arguments: what is tested here is the command, not the engine.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from convgpu import paths
from convgpu.cli import quick
from convgpu.cli.run import command
from convgpu.oci import labels
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot

DOCKER = """#!/bin/sh
printf '%s\\n' "$@" > "$RECORD"
echo "$1" >> "$RECORD.verbs"
[ -t 0 ] && echo terminal >> "$RECORD"
case "$*" in *sleeper*) echo $$; exec sleep 60;; esac
case "$1" in pull) exit 1;; create) echo created-id; exit 0;; rm) exit 0;; esac
exit 42
"""


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def environment(tmp_path):
    """A run folder, and a `docker` that records."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CONVGPU_RUN_DIR": str(tmp_path),
        "RECORD": str(tmp_path / "record"),
    }


def start(environment, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "convgpu.cli.quick", "run", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(environment, *arguments):
    process = start(environment, *arguments)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "much", "--", "image"], "is not a size"),
        (["--limit", "2G", "--guarantee", "3G", "--", "image"], "more than the limit"),
        (["--limit", "2G", "--wait", "soon", "--", "image"], "is not a duration"),
        (["--limit", "2G", "--priority", "high", "--", "image"], "is not a priority"),
        (["--limit", "2G"], "DOCKER_RUN_ARGUMENTS"),
        (["--", "image"], "--limit"),
        (["--limit", "2G", "-it", "image"], "follow `--`"),
        (["--limit", "2G", "--", "-l", "convgpu.limit=9G", "image"], "convgpu.limit"),
        (["--limit", "2G", "--", "-v", "/x:/etc/ld.so.preload", "image"], "/etc/ld.so.preload"),
        (["--limit", "2G", "--device", "0", "--", "--gpus", "all", "image"], "name them once"),
        (["--limit", "2G", "--device", "0,capabilities=all", "--", "image"], "nvidia-smi -L"),
    ],
)
def test_mistakes_are_said_and_nothing_is_made(server, environment, tmp_path, arguments, said):
    status, stdout, stderr = run(environment, *arguments)
    assert (status, stdout) == (2, "")
    assert said in stderr
    assert not (tmp_path / "preload").exists()
    assert not (tmp_path / "record").exists()


def test_labels_in_a_file_are_a_conflict_too(server, environment, tmp_path):
    (tmp_path / "labels").write_text("a=b\nconvgpu.limit=9GiB\n")
    status, _, stderr = run(environment, "--limit", "2G", "--", "--label-file", str(tmp_path / "labels"), "image")
    assert status == 2
    assert "convgpu.limit" in stderr


def test_a_limit_above_the_device_starts_nothing(server, environment, tmp_path):
    status, _, stderr = run(environment, "--limit", "20GiB", "--", "image")
    assert status == 5
    assert "20GiB" in stderr
    assert "10GiB" in stderr
    assert not (tmp_path / "record").exists()


def test_without_a_daemon_nothing_starts(environment, tmp_path):
    status, _, stderr = run(environment, "--limit", "2GiB", "--", "image")
    assert status == 3
    assert "convgpu daemon" in stderr
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    ("devices", "given"),
    [(["0"], "device=0"), (["1", "GPU-5f3c0000-1111"], '"device=1,GPU-5f3c0000-1111"')],
)
def test_devices_are_named_to_docker(server, environment, tmp_path, image, devices, given):
    named = [word for device in devices for word in ("--device", device)]
    assert run(environment, "--limit", "2GiB", *named, "--", "--rm", image)[0] == 42
    assert (tmp_path / "record").read_text().splitlines()[-4:] == ["--gpus", given, "--rm", image]


@pytest.fixture
def image(server):
    server.images.add("mine:latest", {"convgpu.guarantee": "1GiB"}, b"/lib/mine.so\n")
    return "mine:latest"


def test_it_becomes_docker_run_and_its_status_is_dockers(server, environment, tmp_path, image):
    status, _, stderr = run(environment, "--limit", "2GiB", "--wait", "1m", "--", "--rm", image, "sh", "-c", "a b")
    assert (status, stderr) == (42, "")
    recorded = (tmp_path / "record").read_text().splitlines()
    assert recorded[:5] == ["run", "--label", "convgpu.limit=2147483648", "--label", "convgpu.wait=1m"]
    assert recorded[-5:] == ["--rm", image, "sh", "-c", "a b"]
    assert recorded[5:-5:2] == ["--mount"] * 3
    preload = next(line for line in recorded if "target=/etc/ld.so.preload" in line)
    source = preload.split(",")[1].removeprefix("source=")
    with open(source) as file:  # noqa: PTH123
        assert file.read() == "/usr/local/lib/convgpu/libconvgpu.so\n/lib/mine.so\n"
    assert server.requests == ["prepare_run"]


def test_a_dry_run_prints_the_command_and_starts_nothing(server, environment, tmp_path, image):
    status, stdout, _ = run(environment, "--limit", "2GiB", "--dry-run", "--", "-e", "A=b c", image)
    assert status == 0
    assert shlex.split(stdout)[:4] == ["docker", "run", "--label", "convgpu.limit=2147483648"]
    assert shlex.split(stdout)[-3:] == ["-e", "A=b c", image]
    assert not (tmp_path / "record").exists()


def test_a_start_that_waits_is_created_admitted_and_started(server, environment, tmp_path, image):
    status, stdout, stderr = run(environment, "--limit", "2GiB", "--admit", "wait", "--", "-i", image, "sh")
    assert (status, stdout, stderr) == (42, "", "")
    assert (tmp_path / "record.verbs").read_text().split() == ["create", "start"]
    assert (tmp_path / "record").read_text().splitlines() == ["start", "--attach", "--interactive", "created-id"]
    assert server.requests == ["prepare_run", "admit"]


def test_a_start_that_is_denied_leaves_no_container_behind(server, environment, tmp_path, image):
    server.refuse_admission = "container created-id was not started: wait_timeout after 1.0 s"
    status, _, stderr = run(environment, "--limit", "2GiB", "--admit", "wait", "--", image)
    assert status == 5
    assert "wait_timeout" in stderr
    assert (tmp_path / "record.verbs").read_text().split() == ["create", "rm"]


def test_a_dry_run_of_a_start_that_waits_shows_both_commands(server, environment, tmp_path, image):
    status, stdout, _ = run(environment, "--limit", "2GiB", "--admit", "wait", "--dry-run", "--", "-d", image)
    assert status == 0
    create, start_line = stdout.splitlines()
    assert shlex.split(create)[:2] == ["docker", "create"]
    assert start_line == "docker start CONTAINER"
    assert not (tmp_path / "record").exists()


def test_signals_reach_docker_itself(server, environment, image):
    process = start(environment, "--limit", "2GiB", "--", image, "sleeper")
    assert int(process.stdout.readline()) == process.pid, "docker has our pid: nothing stands between"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM
    process.communicate()


def test_the_images_labels_are_checked_with_ours(server, environment, tmp_path, image):
    status, _, stderr = run(environment, "--limit", "512MiB", "--", image)
    assert status == 2
    assert "convgpu.guarantee: 1GiB is more than the limit 512MiB" in stderr
    assert not (tmp_path / "record").exists()


def test_arguments_that_hide_the_image_are_said_not_guessed(server, environment, tmp_path, image):
    status, _, stderr = run(environment, "--limit", "2GiB", "--", "--brand-new", "x", image)
    assert status == 42
    assert "`--brand-new` is not an option of `docker run` that ConvGPU knows" in stderr
    assert "unchecked" in stderr
    assert any("preload/any-image" in line for line in (tmp_path / "record").read_text().splitlines())


def test_an_image_that_is_not_here_is_pulled_first_and_left_to_docker_where_that_fails(server, environment, tmp_path):
    status, _, stderr = run(environment, "--limit", "2GiB", "--", "--platform", "linux/amd64", "not-there")
    assert status == 42
    assert (tmp_path / "record.verbs").read_text().split() == ["pull", "run"]
    assert "no image not-there on this machine" in stderr


def test_a_pull_that_was_forbidden_is_not_tried(server, environment, tmp_path):
    status, _, stderr = run(environment, "--limit", "2GiB", "--", "--pull", "never", "not-there")
    assert status == 42
    assert (tmp_path / "record.verbs").read_text().split() == ["run"]
    assert "no image not-there on this machine" in stderr


def test_an_image_on_musl_is_refused_with_a_reason_and_starts_nothing(server, environment, tmp_path):
    server.images.add("alpine:3", musl=True)
    status, _, stderr = run(environment, "--limit", "2GiB", "--", "--rm", "alpine:3")
    assert status == 2
    assert "is built on musl, which cannot preload ConvGPU's library" in stderr
    assert "next: use an image built on glibc" in stderr
    assert not (tmp_path / "record").exists()


PLAIN = [
    ("--limit", "2GiB", "--", "IMAGE"),
    ("--limit=2GiB", "--guarantee=512MiB", "--", "--rm", "IMAGE", "sh", "-c", "--"),
    ("--limit", "1G", "--guarantee", "0", "--wait", "none", "--priority", "-5", "--", "-it", "IMAGE"),
    ("--wait", "1h30m", "--limit", "9999999999", "--", "--env", "A=--limit", "IMAGE", "--limit"),
]


@pytest.mark.parametrize("arguments", PLAIN)
def test_the_quick_way_and_the_whole_command_line_give_docker_the_same(server, environment, tmp_path, image, arguments):
    words = [image if word == "IMAGE" else word for word in arguments]
    loaded = environment | {"PYTHONPROFILEIMPORTTIME": "1"}
    status, _, imports = run(loaded, *words)
    assert status == 42
    quick = (tmp_path / "record").read_text()
    for heavy in ("click", "msgspec", "docker", "rich", "dataclasses", "typing"):
        assert not re.search(rf"\| +{heavy}$", imports, re.MULTILINE), f"{heavy} was loaded"
    # `--admit now` says what holds anyway, and is not of the plain form.
    status, _, imports = run(loaded, "--admit", "now", *words)
    assert status == 42
    assert re.search(r"\| +click$", imports, re.MULTILINE)
    assert (tmp_path / "record").read_text() == quick


def test_every_option_of_the_quick_way_is_one_of_the_command_and_becomes_its_label():
    options = {name for parameter in command.params for name in parameter.opts}
    assert set(quick.LABEL_OF_OPTION) <= options
    assert set(quick.LABEL_OF_OPTION.values()) <= set(labels.NAMES)


def test_the_quick_way_knows_the_same_folders():
    assert str(paths.DEFAULT_RUN_DIR) == quick._RUN_DIR
    assert str(paths.DEFAULT_CONFIG_FILE) == quick._CONFIG_FILE
    assert quick._CONFIG_VARIABLE == paths.CONFIG_VARIABLE
    assert f"{quick._RUN_DIR}/{quick._CONTROL_SOCKET}" == str(paths.RunPaths().control_socket)


def test_a_configuration_that_names_another_folder_is_left_to_the_whole_command_line(tmp_path):
    file = tmp_path / "config.toml"
    environment = {"CONVGPU_CONFIG": str(file)}
    words = ["--limit", "1G", "--", "image"]
    assert quick.read(words, environment) == ("/run/convgpu", {"convgpu.limit": "1G"}, ["image"])
    file.write_text('algorithm = "fifo"\n')
    assert quick.read(words, environment) is not None
    file.write_text('run_dir = "/elsewhere"\n')
    assert quick.read(words, environment) is None
    assert quick.read(["--run-dir", "/there", *words], environment) == ("/there", {"convgpu.limit": "1G"}, ["image"])
