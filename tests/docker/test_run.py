# SPDX-License-Identifier: Apache-2.0
"""`convgpu run` and `docker convgpu run` keep what `docker run` does: status, terminal, signals, -d, --rm, names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from convgpu.core.units import GIB
from convgpu.oci.launcher import PLUGIN_NAME, plugin_text
from convgpu.testing.stage import IMAGE, Stage, output_of, wait_until

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse]

USR = ("--network", "none", "-v", "/usr:/usr:ro")
ROWS, COLUMNS = 33, 101
Way = Callable[..., list[str]]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Docker's command line the plugin, as `convgpu install` does for all users."""
    file = tmp_path / "cli-plugins" / PLUGIN_NAME
    file.parent.mkdir()
    file.write_text(plugin_text())
    file.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture(params=["convgpu run", "docker convgpu run"])
def way(request: pytest.FixtureRequest, stage: Stage, plugin: None) -> Way:
    """The words that run a program in a container of a name, by either of the two commands."""

    def words(name: str, *docker: str, program: tuple[str, ...], image: str = IMAGE) -> list[str]:
        stage.names.append(name)
        labels = ("--label", "convgpu-stage=1")
        return [
            *request.param.split(),
            "--limit",
            "1GiB",
            "--",
            "--name",
            name,
            *labels,
            *USR,
            *docker,
            image,
            *program,
        ]

    return words


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def exists(name: str) -> bool:
    return run(["docker", "inspect", name]).returncode == 0


def test_docker_lists_the_plugin_and_hands_its_words_over(stage: Stage, plugin: None) -> None:
    assert "convgpu*" in run(["docker", "--help"]).stdout
    assert run(["docker", "convgpu", "run", "--help"]).stdout.startswith("Usage: docker convgpu run ")
    mistaken = run(["docker", "convgpu", "run", "--limit", "much", "--", IMAGE])
    assert mistaken.returncode == 2
    assert "'much' is not a size" in mistaken.stderr
    assert run(["docker", "convgpu", "ps", "--format", "json"]).stdout == output_of("convgpu", "ps", "--format", "json")


def test_the_engine_that_docker_was_told_of_is_the_one_that_starts_it(stage: Stage, plugin: None) -> None:
    nowhere = ("docker", "--host", "unix:///nowhere.sock", "convgpu")
    done = run([*nowhere, "run", "--limit", "1GiB", "--", "--rm", *USR, IMAGE, "/usr/bin/true"])
    assert done.returncode != 0
    assert "unix:///nowhere.sock" in done.stderr


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (("/usr/bin/sh", "-c", "echo out; echo err >&2; exit 37"), 37),
        (("/usr/bin/sh", "-c", "/usr/bin/sh -c 'kill -9 $$'; exit $?"), 137),
        (("/no/such/program",), 127),
        (("/etc",), 126),
    ],
)
def test_the_status_is_dockers(way: Way, program: tuple[str, ...], status: int) -> None:
    done = run(way("leaver", "--rm", program=program))
    assert done.returncode == status, done.stderr
    if status == 37:
        assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_what_docker_refuses_is_refused_in_its_words_with_its_status(way: Way) -> None:
    done = run(way("refused", "--memory", "1", program=("true",)))
    assert done.returncode == 125
    assert "Minimum memory limit" in done.stderr


def test_standard_input_reaches_the_program(way: Way) -> None:
    words = way("reader", "--rm", "-i", program=("/usr/bin/cat",))
    done = subprocess.run(words, input="to and fro\n", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "to and fro\n")


def test_the_terminal_is_the_containers_with_its_size(way: Way) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    script = f"until [ \"$(stty size)\" = '{ROWS} {COLUMNS}' ]; do sleep 0.02; done; read word; echo <$word>; exit 5"
    script = script.replace("<$word>", '"got $word"')
    words = way("typist", "--rm", "-it", program=("/usr/bin/sh", "-c", script))
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        os.write(ours, b"hello\n")
        assert process.wait(timeout=60) == 5
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert b"got hello\r\n" in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_program(way: Way, number: signal.Signals) -> None:
    script = "trap 'echo caught; exit 9' TERM INT; echo ready; while :; do sleep 0.05; done"
    words = way("listener", "--rm", program=("/usr/bin/sh", "-c", script))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)  # to the one process, as a supervisor does, and not to its group
        assert process.stdout.readline() == "caught\n"
        assert process.wait(timeout=30) == 9


def test_a_docker_that_is_killed_takes_its_container_along(stage: Stage, plugin: None) -> None:
    stage.names.append("orphan")
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    options = ("--limit", "1GiB", "--", "--name", "orphan", "--label", "convgpu-stage=1", *USR)
    words = ["docker", "convgpu", "run", *options, IMAGE, "/usr/bin/sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert output_of("docker", "wait", "orphan") == "9\n"


def test_detached_it_prints_the_id_alone_and_the_container_goes_on(way: Way, stage: Stage) -> None:
    done = run(way("lasting", "-d", program=("/usr/bin/sleep", "600")))
    assert done.returncode == 0
    container = output_of("docker", "inspect", "-f", "{{.Id}} {{.State.Running}} {{.Name}}", "lasting").split()
    assert container == [done.stdout.strip(), "true", "/lasting"]
    wait_until("it is known by its name", lambda: "lasting" in stage.listing())
    assert stage.device("lasting")["limit_bytes"] == GIB
    taken = run(way("lasting", "-d", program=("/usr/bin/true",)))
    assert taken.returncode == 125
    assert "already in use" in taken.stderr


def test_with_rm_nothing_is_left_and_without_it_the_container_is(way: Way) -> None:
    assert run(way("gone", "--rm", program=("/usr/bin/true",))).returncode == 0
    assert not exists("gone")
    assert run(way("kept", program=("/usr/bin/true",))).returncode == 0
    assert exists("kept")
