# SPDX-License-Identifier: Apache-2.0
"""`convgpu install` and `uninstall`, as a person uses them, on another root folder."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVGPU_CONFIG", os.devnull)  # the machine's own settings are none of this test's business

    def call(*arguments):
        return CliRunner().invoke(main, [*arguments, "--root", str(tmp_path)], prog_name="convgpu")

    return call


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_dry_run_shows_and_does_nothing(invoke, tmp_path):
    done = invoke("install", "--dry-run")
    assert done.exit_code == 0
    assert '+    "runtimes": {' in done.output
    assert "+ExecStart=" in done.output
    assert files(tmp_path) == []


def test_each_file_is_named_and_gone_again(invoke, tmp_path):
    done = invoke("install")
    assert done.exit_code == 0, done.output
    made = files(tmp_path)
    assert made == [
        "etc/docker/daemon.json",
        "etc/systemd/system/convgpu.service",
        "usr/local/bin/convgpu-runtime",
        "usr/local/lib/docker/cli-plugins/docker-convgpu",
        "var/lib/convgpu/installed.json",
    ]
    assert all(f"wrote {tmp_path}/{name}" in done.output for name in made)
    assert os.access(tmp_path / "usr/local/bin/convgpu-runtime", os.X_OK)
    assert "in place" in invoke("install").output
    assert invoke("uninstall", "--dry-run").exit_code == 0
    assert files(tmp_path) == made
    assert "removed" in invoke("uninstall").output
    assert files(tmp_path) == []


def test_a_daemon_json_with_a_mistake_is_named(invoke, tmp_path):
    (tmp_path / "etc" / "docker").mkdir(parents=True)
    (tmp_path / "etc" / "docker" / "daemon.json").write_text("{,}")
    done = invoke("install")
    assert done.exit_code == 2
    assert "daemon.json: it is not JSON" in done.stderr
