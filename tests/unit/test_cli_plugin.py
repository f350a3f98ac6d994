# SPDX-License-Identifier: Apache-2.0
"""`docker convgpu`: what Docker's command line asks of a plugin, and how it calls one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from convgpu import __version__
from convgpu.cli import plugin
from convgpu.cli.main import VERBS


def call(*words, environment=None):
    command = [sys.executable, "-m", "convgpu.cli.plugin", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_metadata_is_what_docker_accepts():
    # docker/cli, cli-plugins/manager/plugin.go: this schema and a vendor, or the plugin is listed as invalid.
    told = json.loads(call("docker-cli-plugin-metadata").stdout)
    assert told["SchemaVersion"] == "0.1.0"
    assert told["Vendor"]
    assert told["ShortDescription"]
    assert told["Version"] == __version__


def test_it_is_the_same_program_under_another_name():
    shown = call("convgpu", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: docker convgpu ")
    assert all(f"  {verb} " in shown.stdout for verb in VERBS)
    assert call("convgpu", "--version").stdout == f"convgpu {__version__}\n"
    assert "Usage: docker convgpu run" in call("convgpu", "run", "--help").stdout


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["convgpu"], {}),
        (["--host", "unix:///a", "convgpu"], {"DOCKER_HOST": "unix:///a"}),
        (["-H=unix:///a", "-D", "convgpu"], {"DOCKER_HOST": "unix:///a"}),
        (["-DHunix:///a", "convgpu"], {"DOCKER_HOST": "unix:///a"}),
        (["--context=lab", "--log-level", "debug", "convgpu"], {"DOCKER_CONTEXT": "lab"}),
        (["-c", "convgpu", "-l", "warn", "convgpu"], {"DOCKER_CONTEXT": "convgpu"}),
        (["--config", "/c", "--tlsverify", "convgpu"], {"DOCKER_CONFIG": "/c", "DOCKER_TLS_VERIFY": "1"}),
        (["--tls=false", "--debug=true", "convgpu"], {}),
    ],
)
def test_dockers_own_options_reach_the_docker_that_it_becomes(words, environment):
    assert plugin.read([*words, "run", "--limit", "1GiB", "-H"]) == (environment, ["run", "--limit", "1GiB", "-H"])


@pytest.mark.parametrize("words", [["--tlscacert", "/ca", "convgpu"], ["-x", "convgpu"], ["ps"], []])
def test_what_cannot_be_handed_on_is_refused(words):
    done = call(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("convgpu: ")


def test_a_shell_is_offered_the_verbs():
    lines = call("__complete", "convgpu", "li").stdout.splitlines()
    assert lines == [f"limit\t{VERBS['limit'].summary}", ":4"]
    assert call("__completeNoDesc", "convgpu", "run", "--li").stdout == ":4\n"
