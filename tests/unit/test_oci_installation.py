# SPDX-License-Identifier: Apache-2.0
"""Installing and uninstalling: daemon.json is the machine's, and is left as it was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convgpu.errors import UsageError
from convgpu.oci import engine_settings
from convgpu.oci.installation import Installation

STATE_DIR = Path("/var/lib/convgpu")
LABS_OWN = """{
\t"data-root": "/srv/docker",
\t"runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]}},
\t"log-opts": {"max-size": "10m", "labels": "é"}
}
"""
FORMS = [None, "", "{}", '{"live-restore":true}', LABS_OWN]


class Machine:
    """A root folder, with a daemon.json or without."""

    def __init__(self, root: Path, text: str | None) -> None:
        self.root = root
        self.file = root / "etc" / "docker" / "daemon.json"
        if text is not None:
            self.file.parent.mkdir(parents=True)
            self.file.write_text(text)

    def install(self, *, default: bool = False, next_runtime: str = "runc") -> list[Path]:
        return self._make(Installation(self.root, STATE_DIR, next_runtime).changes(default=default))

    def uninstall(self) -> list[Path]:
        return self._make(Installation(self.root, STATE_DIR, "runc").removal())

    def _make(self, changes) -> list[Path]:
        for change in changes:
            change.make()
        return [change.path.relative_to(self.root) for change in changes]

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.root)): path.read_text() for path in self.root.rglob("*") if path.is_file()}

    def folders(self) -> set[Path]:
        return {path for path in self.root.rglob("*") if path.is_dir()}

    def settings(self) -> dict[str, object]:
        content: dict[str, object] = json.loads(self.file.read_text())
        return content


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("default", [False, True])
def test_what_is_installed_is_gone_again_to_the_last_letter(tmp_path, text, default):
    machine = Machine(tmp_path, text)
    before, folders = machine.files(), machine.folders()
    machine.install(default=default)
    assert machine.settings()["runtimes"]["convgpu"] == {"path": "/usr/local/bin/convgpu-runtime"}
    assert machine.settings().get("default-runtime") == ("convgpu" if default else None)
    machine.uninstall()
    assert (machine.files(), machine.folders()) == (before, folders)
    assert machine.uninstall() == []


def test_everything_else_stays_in_its_order_and_form(tmp_path):
    machine = Machine(tmp_path, LABS_OWN)
    machine.install(default=True)
    settings = machine.settings()
    assert list(settings) == ["data-root", "runtimes", "log-opts", "default-runtime"]
    assert list(settings["runtimes"]) == ["crun", "convgpu"]
    assert settings["runtimes"]["crun"] == {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]}
    assert '\n\t"data-root": "/srv/docker",\n' in machine.file.read_text()
    assert '"é"' in machine.file.read_text()


def test_a_folder_in_which_somebody_has_put_something_since_stays(tmp_path):
    machine = Machine(tmp_path, None)
    machine.install()
    theirs = tmp_path / "usr/local/lib/docker/cli-plugins/docker-theirs"
    theirs.write_text("")
    machine.uninstall()
    assert machine.files() == {str(theirs.relative_to(tmp_path)): ""}
    assert machine.folders() == set(theirs.parents) & machine.folders()


def test_a_second_time_changes_nothing(tmp_path):
    machine = Machine(tmp_path, LABS_OWN)
    machine.install()
    before = machine.files()
    assert machine.install() == []
    assert machine.files() == before


def test_it_can_be_made_the_default_later(tmp_path):
    machine = Machine(tmp_path, LABS_OWN)
    machine.install()
    machine.install(default=True)
    assert machine.settings()["default-runtime"] == "convgpu"
    machine.uninstall()
    assert machine.file.read_text() == LABS_OWN


def test_what_others_changed_since_is_kept(tmp_path):
    machine = Machine(tmp_path, '{"default-runtime": "crun", "runtimes": {"crun": {"path": "/usr/bin/crun"}}}')
    machine.install(default=True, next_runtime="/usr/bin/crun")
    settings = machine.settings()
    settings["debug"] = True
    machine.file.write_text(json.dumps(settings))
    machine.uninstall()
    assert machine.settings() == {
        "default-runtime": "crun",
        "runtimes": {"crun": {"path": "/usr/bin/crun"}},
        "debug": True,
    }


def test_the_default_runtime_of_before_must_not_be_lost(tmp_path):
    text = '{"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}'
    machine = Machine(tmp_path, text)
    with pytest.raises(UsageError, match=r"nvidia-container-runtime.* would leave the work to runc") as refused:
        machine.install(default=True)
    assert 'runtime_next = "nvidia-container-runtime"' in refused.value.next_step
    assert machine.file.read_text() == text
    machine.install(default=True, next_runtime="nvidia-container-runtime")
    assert machine.settings()["default-runtime"] == "convgpu"


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": []}', '{"runtimes": {"convgpu": {"path": "/else"}}}'])
def test_a_file_that_is_not_understood_or_taken_is_left_alone(tmp_path, text):
    machine = Machine(tmp_path, text)
    with pytest.raises(UsageError, match=str(machine.file)):
        machine.install()
    assert machine.files() == {"etc/docker/daemon.json": text}


def test_a_link_stays_a_link_and_the_mode_stays_what_it_was(tmp_path):
    machine = Machine(tmp_path, None)
    real = tmp_path / "srv" / "docker.json"
    real.parent.mkdir()
    real.write_text("{}")
    real.chmod(0o600)
    machine.file.parent.mkdir(parents=True)
    machine.file.symlink_to(real)
    machine.install()
    assert machine.file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert "convgpu" in real.read_text()
    machine.uninstall()
    assert real.read_text() == "{}"


def test_a_dry_run_shows_the_difference(tmp_path):
    machine = Machine(tmp_path, '{\n    "debug": true\n}\n')
    changes = Installation(machine.root, STATE_DIR, "runc").changes(default=False)
    shown = [line for change in changes for line in change.diff()]
    assert '+        "convgpu": {' in shown
    assert "+#!/bin/sh" in shown
    assert machine.files() == {"etc/docker/daemon.json": '{\n    "debug": true\n}\n'}


def test_the_unit_starts_this_installation_and_keeps_the_pages(tmp_path):
    machine = Machine(tmp_path, None)
    machine.install()
    unit = machine.files()["etc/systemd/system/convgpu.service"]
    assert "convgpu daemon\n" in unit
    assert "\nRuntimeDirectory" not in unit
    assert "{" not in unit


def test_without_our_record_nothing_of_daemon_json_is_touched(tmp_path):
    text = '{"runtimes": {"convgpu": {"path": "/usr/local/bin/convgpu-runtime"}}}'
    machine = Machine(tmp_path, text)
    assert machine.uninstall() == []
    assert machine.file.read_text() == text


def test_the_default_is_not_seen_as_its_own_predecessor():
    text = engine_settings.with_runtime(None, "/p", default=True)
    assert engine_settings.default_runtime(text) is None


def test_a_running_docker_is_told_in_so_many_words_what_is_left():
    assert json.loads(engine_settings.forgetting(None)) == {"runtimes": {}, "default-runtime": "runc"}
    text = '{"default-runtime": "crun", "runtimes": {"crun": {"path": "/usr/bin/crun"}}, "debug": true}'
    assert json.loads(engine_settings.forgetting(text)) == json.loads(text)
