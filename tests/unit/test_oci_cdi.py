# SPDX-License-Identifier: Apache-2.0
"""The CDI device: the form that engines demand, and the hook that refuses what a static file cannot do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main

# From SPEC.md and pkg/parser of the Container Device Interface: what its library refuses otherwise.
KIND = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?")
DEVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
HOOKS = {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
KNOWN = {
    "": {"cdiVersion", "kind", "devices", "containerEdits", "annotations"},
    "device": {"name", "containerEdits", "annotations"},
    "edits": {"env", "deviceNodes", "mounts", "hooks"},
    "mount": {"hostPath", "containerPath", "options", "type"},
    "hook": {"hookName", "path", "args", "env", "timeout"},
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    native = tmp_path / "native"
    (native / "include").mkdir(parents=True)
    (native / "include" / "convgpu_abi.h").write_text("")
    (native / "libconvgpu.so").write_bytes(b"")
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}"\nruntime_daemon_absent = "start"\n')
    monkeypatch.setenv("CONVGPU_CONFIG", str(config))
    monkeypatch.setenv("CONVGPU_NATIVE_DIR", str(native))
    return tmp_path


@pytest.fixture
def written(machine):
    done = CliRunner().invoke(main, ["cdi", "generate", "--output", str(machine / "cdi" / "convgpu.json")])
    assert done.exit_code == 0, done.output
    assert "convgpu.dev/guard=default" in done.output
    return json.loads((machine / "cdi" / "convgpu.json").read_text())


def test_it_is_of_the_form_that_engines_read(written):
    assert written.keys() <= KNOWN[""]
    assert re.fullmatch(r"0\.[35]\.0", written["cdiVersion"]), "Podman 4.3 reads nothing newer"
    assert KIND.fullmatch(written["kind"])
    for device in written["devices"]:
        assert device.keys() <= KNOWN["device"]
        assert DEVICE.fullmatch(device["name"])
        edits = device["containerEdits"]
        assert edits.keys() <= KNOWN["edits"]
        for mount in edits["mounts"]:
            assert mount.keys() <= KNOWN["mount"]
            assert Path(mount["hostPath"]).exists()
            assert mount["containerPath"].startswith("/")
            assert "ro" in mount["options"]
        for hook in edits["hooks"]:
            assert hook.keys() <= KNOWN["hook"]
            assert hook["hookName"] in HOOKS
            assert Path(hook["path"]).stat().st_mode & 0o111
            assert all("=" in variable for variable in hook["env"]), "an environment of its own, not the engine's"


def call_hook(written, bundle, config):
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(config))
    (hook,) = written["devices"][0]["containerEdits"]["hooks"]
    state = json.dumps({"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 1, "bundle": str(bundle)})
    environment = dict(variable.split("=", 1) for variable in hook["env"])
    return subprocess.run(
        hook["args"], executable=hook["path"], input=state, env=environment, capture_output=True, text=True, check=False
    )


def test_the_hook_lets_an_ordinary_container_start(written, tmp_path):
    (tmp_path / "b" / "rootfs" / "etc").mkdir(parents=True)
    (tmp_path / "b" / "rootfs" / "etc" / "ld.so.preload").touch()  # what the engine mounts the file over
    done = call_hook(written, tmp_path / "b", {"root": {"path": "rootfs"}, "annotations": {"convgpu.limit": "1GiB"}})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "content", "annotations", "said"),
    [
        ("lib/ld-musl-x86_64.so.1", "", {}, "musl"),
        ("etc/ld.so.preload", "# theirs\n/lib/theirs.so\n", {}, "/etc/ld.so.preload of its own"),
        ("etc/x", "", {"convgpu.limit": "much"}, "label convgpu.limit: 'much'"),
    ],
)
def test_the_hook_refuses_what_would_run_without_its_limit(written, tmp_path, name, content, annotations, said):
    path = tmp_path / "b" / "rootfs" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    done = call_hook(written, tmp_path / "b", {"root": {"path": "rootfs"}, "annotations": annotations})
    assert done.returncode == 1
    assert said in done.stderr
