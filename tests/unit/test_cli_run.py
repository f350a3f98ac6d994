# SPDX-License-Identifier: Apache-2.0
"""`convgpu run`: what it checks, and that it becomes `docker run`.

`docker` is a script that prints its arguments: what is tested here is the command, not the engine. Where the image is
looked at, a real engine is needed; those tests are marked.
"""

from __future__ import annotations

import io
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot

DOCKER = """#!/bin/sh
printf '%s\\n' "$@" > "$RECORD"
echo "$1" >> "$RECORD.verbs"
[ -t 0 ] && echo terminal >> "$RECORD"
case "$*" in *sleeper*) echo $$; exec sleep 60;; esac
case "$1" in create) echo created-id; exit 0;; rm) exit 0;; esac
exit 42
"""


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def environment(tmp_path):
    """A run folder, a built library, and a `docker` that records."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    native = tmp_path / "native"
    (native / "include").mkdir(parents=True)
    (native / "include" / "convgpu_abi.h").write_text("")
    (native / "libconvgpu.so").write_bytes(b"")
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CONVGPU_RUN_DIR": str(tmp_path),
        "CONVGPU_NATIVE_DIR": str(native),
        "RECORD": str(tmp_path / "record"),
    }


def start(environment, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "convgpu.cli.main", "run", *arguments],
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
    ],
)
def test_mistakes_are_found_before_anything_is_asked(server, environment, tmp_path, arguments, said):
    status, stdout, stderr = run(environment, *arguments)
    assert (status, stdout) == (2, "")
    assert said in stderr
    assert server.requests == []
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


@pytest.mark.docker
class TestWithAnEngine:
    """The image is looked at through the engine's API; `docker` itself is still the recording script."""

    @pytest.fixture
    def image(self):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo("etc/ld.so.preload")
            entry.size = len(b"/lib/mine.so\n")
            archive.addfile(entry, io.BytesIO(b"/lib/mine.so\n"))
        name = f"convgpu-test-{secrets.token_hex(4)}:latest"
        label = "LABEL convgpu.guarantee=1GiB"
        subprocess.run(
            ["docker", "import", "--change", label, "-", name], input=packed.getvalue(), check=True, capture_output=True
        )
        yield name
        subprocess.run(["docker", "rmi", "--force", name], check=True, capture_output=True)

    def test_it_becomes_docker_run_and_its_status_is_dockers(self, server, environment, tmp_path, image):
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
        assert server.requests == ["check_start"]

    def test_a_dry_run_prints_the_command_and_starts_nothing(self, server, environment, tmp_path, image):
        status, stdout, _ = run(environment, "--limit", "2GiB", "--dry-run", "--", "-e", "A=b c", image)
        assert status == 0
        assert shlex.split(stdout)[:4] == ["docker", "run", "--label", "convgpu.limit=2147483648"]
        assert shlex.split(stdout)[-3:] == ["-e", "A=b c", image]
        assert not (tmp_path / "record").exists()

    def test_a_start_that_waits_is_created_admitted_and_started(self, server, environment, tmp_path, image):
        status, stdout, stderr = run(environment, "--limit", "2GiB", "--admit", "wait", "--", "-i", image, "sh")
        assert (status, stdout, stderr) == (42, "", "")
        assert (tmp_path / "record.verbs").read_text().split() == ["create", "start"]
        assert (tmp_path / "record").read_text().splitlines() == ["start", "--attach", "--interactive", "created-id"]
        assert server.requests == ["check_start", "admit"]

    def test_a_start_that_is_denied_leaves_no_container_behind(self, server, environment, tmp_path, image):
        server.refuse_admission = "container created-id was not started: wait_timeout after 1.0 s"
        status, _, stderr = run(environment, "--limit", "2GiB", "--admit", "wait", "--", image)
        assert status == 5
        assert "wait_timeout" in stderr
        assert (tmp_path / "record.verbs").read_text().split() == ["create", "rm"]

    def test_a_dry_run_of_a_start_that_waits_shows_both_commands(self, server, environment, tmp_path, image):
        status, stdout, _ = run(environment, "--limit", "2GiB", "--admit", "wait", "--dry-run", "--", "-d", image)
        assert status == 0
        create, start_line = stdout.splitlines()
        assert shlex.split(create)[:2] == ["docker", "create"]
        assert start_line == "docker start CONTAINER"
        assert not (tmp_path / "record").exists()

    def test_signals_reach_docker_itself(self, server, environment, image):
        process = start(environment, "--limit", "2GiB", "--", image, "sleeper")
        assert int(process.stdout.readline()) == process.pid, "docker has our pid: nothing stands between"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM
        process.communicate()

    def test_the_images_labels_are_checked_with_ours(self, server, environment, tmp_path, image):
        status, _, stderr = run(environment, "--limit", "512MiB", "--", image)
        assert status == 2
        assert "convgpu.guarantee: 1GiB is more than the limit 512MiB" in stderr
        assert not (tmp_path / "record").exists()

    def test_arguments_that_hide_the_image_are_said_not_guessed(self, server, environment, tmp_path, image):
        status, _, stderr = run(environment, "--limit", "2GiB", "--", "--brand-new", "x", image)
        assert status == 42
        assert "`--brand-new` is not an option of `docker run` that ConvGPU knows" in stderr
        assert "unchecked" in stderr
        assert any("preload/any-image" in line for line in (tmp_path / "record").read_text().splitlines())

    def test_a_missing_image_is_left_to_docker(self, server, environment, tmp_path):
        started = time.monotonic()
        status, _, stderr = run(environment, "--limit", "2GiB", "--", "--pull", "never", "convgpu-test-not-there")
        assert status == 42
        assert "no image convgpu-test-not-there on this machine" in stderr
        assert time.monotonic() - started < 30
