# SPDX-License-Identifier: Apache-2.0
"""Completion, asked as the shells ask, and in the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main
from convgpu.cli.options import CONTAINER
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def complete(tmp_path):
    """What is offered for the last word, as bash asks."""

    def offered(*words):
        environment = {
            "_CONVGPU_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("convgpu", *words)),
            "COMP_CWORD": str(len(words)),
            "CONVGPU_RUN_DIR": str(tmp_path),
        }
        done = CliRunner(env=environment).invoke(main, [], prog_name="convgpu")
        assert not done.exception or isinstance(done.exception, SystemExit), done.exception
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    return offered


@pytest.fixture
def on_the_path(tmp_path, monkeypatch):
    """A `convgpu` of this very code on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "convgpu"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m convgpu.cli.quick "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CONVGPU_RUN_DIR", str(tmp_path))


def script(shell):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    return done.stdout


def test_verbs_options_and_values(complete):
    assert complete("li") == ["limit"]
    assert complete("limit", "s") == ["set"]
    assert complete("ps", "--form") == ["--format"]
    assert complete("ps", "--format", "json") == ["json", "jsonl"]
    assert complete("simulate", "--algorithm", "b") == ["best-fit"]
    assert complete("events", "--type", "con") == ["container", "config"]


@pytest.mark.parametrize("words", [("queue",), ("trace",), ("events",), ("limit", "set"), ("limit", "get")])
def test_containers_are_those_of_the_daemon(server, complete, words):
    assert complete(*words, "") == ["alpha", "gamma", "beta"]
    assert complete(*words, "ga") == ["gamma"]


def test_an_id_is_completed_once_one_began_to_write_it(server, complete):
    assert complete("queue", "6761") == ["67616d6d6100"]


def test_the_daemon_of_another_folder(server, complete, tmp_path, monkeypatch):
    assert complete("queue", "--run-dir", "/nowhere", "a") == []


def test_it_costs_the_daemon_no_measurement(server, complete):
    complete("queue", "")
    assert server.requests == ["limit_list"]


def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(complete):
    assert complete("queue", "") == []


def test_a_daemon_that_does_not_answer_holds_up_no_shell(complete, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(tmp_path / "control.sock"))
        deaf.listen()
        began_s = time.monotonic()
        assert complete("queue", "") == []
        assert time.monotonic() - began_s < 2


def test_the_name_of_a_container_is_passed_on_as_it_is():
    assert CONTAINER.convert("Any thing", None, None) == "Any thing"


def test_bash(server, on_the_path):
    asked = 'COMP_WORDS=(convgpu limit set g); COMP_CWORD=3; _convgpu_completion convgpu; echo "${COMPREPLY[*]}"'
    done = subprocess.run(["bash", "-c", script("bash") + "\n" + asked], capture_output=True, text=True, check=True)
    assert done.stdout == "gamma\n"
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(server, on_the_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    asked = script("fish") + '\ncomplete -C "convgpu limit set g"\n'
    done = subprocess.run(["fish", "--private", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["gamma", "67616d6d6100"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(server, on_the_path, tmp_path):
    """zsh completes only in its line editor, so here it is its script's own question, with the editor's part noted."""
    asked = """
compdef() { :; }; compadd() { :; }
_describe() { print -l -- "${(@P)3}" }
"""
    words = "\nwords=(convgpu limit set g); CURRENT=4; _convgpu_completion"
    done = subprocess.run(
        ["zsh", "-f", "-c", asked + script("zsh") + words], capture_output=True, text=True, check=True
    )
    assert "gamma:67616d6d6100" in done.stdout.split()
