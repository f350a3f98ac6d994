# SPDX-License-Identifier: Apache-2.0
"""The runtime shim: what it does to a bundle, and that all else reaches the next runtime as it was.

The next runtime is a script that records its arguments and prints the bundle's config.json as it finds it.
"""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import pytest

from convgpu.oci.launcher import launcher_text
from convgpu.oci.published import Published
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot

CONTAINER = "c0" * 32
NEXT = """#!/bin/sh
printf '%s\\n' "$@" > "$0.arguments"
exit 42
"""
MOUNTS = ["/usr/local/lib/convgpu/libconvgpu.so", "/etc/ld.so.preload", "/run/convgpu"]


class Engine:
    """A folder of an engine with one container, its bundle, and the runtime that the engine would call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.control_socket = folder / "control.sock"
        self.runtime = folder / "convgpu runtime"
        self.runtime.write_text(launcher_text(self.state_dir))
        self.runtime.chmod(0o755)
        self.next = folder / "next"
        self.next.write_text(NEXT)
        self.next.chmod(0o755)
        self.bundle = folder / "bundle"
        self.root = self.bundle / "rootfs"
        (self.root / "etc").mkdir(parents=True)
        self.record = folder / "data" / "containers" / CONTAINER
        self.record.mkdir(parents=True)
        self.config = {
            "ociVersion": "1.0.2",
            "process": {"args": ["true"], "env": ["CONVGPU_LIMIT=9GiB"]},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hostname", "type": "bind", "source": str(self.record / "hostname")},
            ],
            "linux": {"namespaces": [{"type": "pid"}], "resources": {"cpu": {"shares": 0}}},
            "unknown to us": [1.5, None, "\u00e9"],
        }
        self.labels({})
        self.publish()

    def publish(self, **settings: str) -> None:
        Published(
            **{
                "next": str(self.next),
                "unlabelled": "guard",
                "daemon_absent": "refuse",
                "control_socket": self.control_socket,
                "library": self.folder / "libconvgpu.so",
                "preload_dir": self.folder / "preload",
                "client_dir": self.folder / "client",
                **settings,
            }
        ).write(self.state_dir)

    def labels(self, labels: dict[str, str]) -> None:
        record = {"ID": CONTAINER, "Config": {"Labels": labels}}
        (self.record / "config.v2.json").write_text(json.dumps(record))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.runtime, *arguments], capture_output=True, text=True, check=False)

    def create(self) -> tuple[int, str]:
        """Create the container; return the status, and what an engine would show of a failure."""
        (self.bundle / "config.json").write_text(json.dumps(self.config))
        log = self.folder / "log.json"
        log.unlink(missing_ok=True)
        words = ("--root", "/run/x", "--log", str(log), "--log-format", "json", "--systemd-cgroup", "create")
        done = self.call(*words, "--bundle", str(self.bundle), "--pid-file", "/x/pid", CONTAINER)
        if done.returncode == 42:
            called = (self.folder / "next.arguments").read_text().splitlines()
            assert called == [*words, "--bundle", str(self.bundle), "--pid-file", "/x/pid", CONTAINER]
        return done.returncode, json.loads(log.read_text())["msg"] if log.exists() else ""

    def written(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.bundle / "config.json").read_text())
        return content

    def added(self) -> list[str]:
        """Return the destinations that were added; everything else has to be as it was."""
        content = self.written()
        mounts = content["mounts"]
        before = copy.deepcopy(self.config)
        kept = len(before["mounts"])
        assert {**content, "mounts": mounts[:kept]} == before
        return [mount["destination"] for mount in mounts[kept:]]

    def preload(self) -> str:
        mounts = {mount["destination"]: mount["source"] for mount in self.written()["mounts"]}
        return Path(mounts["/etc/ld.so.preload"]).read_text()


@pytest.fixture
def engine(tmp_path):
    return Engine(tmp_path)


@pytest.fixture
def daemon(engine):
    with FakeControlServer(sample_snapshot(), engine.control_socket) as fake:
        yield fake


@pytest.mark.parametrize(
    "arguments",
    [
        ("--root", "/run/x", "--log=/l", "start", CONTAINER),
        ("--log-format", "json", "kill", "--all", CONTAINER, "9"),
        ("delete", "--force", CONTAINER),
        ("--version",),
        ("--root", "create", "state", "a b", "", "*"),
        ("exec", "--process", "/p", "--log", "/nowhere/log", "create"),
    ],
)
def test_all_but_a_creation_reaches_the_next_runtime_as_it_is(engine, arguments):
    done = engine.call(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (42, "", "")
    assert (engine.folder / "next.arguments").read_text() == "".join(f"{word}\n" for word in arguments)


def test_a_container_with_a_limit_gets_three_read_only_mounts_and_nothing_else(engine, daemon):
    engine.labels({"convgpu.limit": "1GiB", "other": "x"})
    assert engine.create() == (42, "")
    assert engine.added() == MOUNTS
    for mount in engine.written()["mounts"][2:]:
        assert mount["type"] == "bind"
        assert mount["options"] == ["rbind", "ro", "rprivate"]
    assert engine.preload() == "/usr/local/lib/convgpu/libconvgpu.so\n"
    assert daemon.requests == ["prepare_create"]


def test_the_containers_own_preload_file_is_kept(engine, daemon):
    (engine.root / "etc" / "ld.so.preload").write_bytes(b"/lib/mine.so # why\n")
    engine.create()
    assert engine.preload() == "/usr/local/lib/convgpu/libconvgpu.so\n/lib/mine.so\n"


def test_the_library_goes_aside_where_a_folder_is_mounted_over_usr(engine, daemon):
    engine.config["mounts"].append({"destination": "/usr", "type": "bind", "source": "/usr"})
    engine.create()
    assert engine.added() == ["/.convgpu/libconvgpu.so", *MOUNTS[1:]]
    assert engine.preload() == "/.convgpu/libconvgpu.so\n"


def test_an_annotation_says_more_than_a_label_and_the_environment_says_nothing(engine, daemon):
    engine.labels({"convgpu.limit": "1GiB"})
    engine.config["annotations"] = {"convgpu.limit": "20GiB"}
    status, said = engine.create()
    assert status == 1
    assert "20GiB" in said
    assert "10GiB" in said


def test_a_bad_value_starts_nothing_and_its_label_is_named(engine, daemon):
    engine.labels({"convgpu.limit": "much"})
    status, said = engine.create()
    assert status == 1
    assert said.startswith("convgpu: label convgpu.limit: 'much' is not a size")
    assert not (engine.folder / "next.arguments").exists()


def test_without_labels_the_policy_decides(engine, daemon):
    engine.create()
    assert engine.added() == MOUNTS
    engine.publish(unlabelled="pass")
    assert engine.create() == (42, "")
    assert (engine.bundle / "config.json").read_text() == json.dumps(engine.config), "not even written again"
    engine.labels({"convgpu.limit": "1GiB"})
    engine.create()
    assert engine.added() == MOUNTS


def test_what_convgpu_run_has_mounted_already_is_left_alone(engine):
    engine.labels({"convgpu.limit": "1GiB"})
    engine.config["mounts"].append({"destination": "/run/convgpu", "type": "bind", "source": "/x"})
    assert engine.create() == (42, "")
    assert engine.added() == []


def test_musl_is_refused_with_a_limit_and_left_alone_without(engine, daemon):
    (engine.root / "lib").mkdir()
    (engine.root / "lib" / "ld-musl-x86_64.so.1").touch()
    assert engine.create() == (42, "")
    assert engine.added() == []
    engine.labels({"convgpu.limit": "1GiB"})
    status, said = engine.create()
    assert status == 1
    assert "musl" in said


def test_a_checkpoint_of_a_guarded_container_is_refused_before_anything_is_frozen(engine, daemon):
    engine.labels({"convgpu.limit": "1GiB"})
    engine.create()
    engine.next.write_text(f'#!/bin/sh\ncase "$*" in "--root /run/x state {CONTAINER}") ;; *) exit 42 ;; esac\n'
                           f"echo '{{\"bundle\": \"{engine.bundle}\"}}'\n")  # fmt: skip
    words = ("--root", "/run/x", "checkpoint", "--image-path", "/x", CONTAINER)
    done = engine.call(*words)
    assert done.returncode == 1
    assert "checkpoint: a container that ConvGPU guards cannot have one" in done.stderr
    (engine.bundle / "config.json").write_text(json.dumps(engine.config))
    assert engine.call(*words).returncode == 42, "who is not guarded may have one"


@pytest.mark.parametrize(("labels", "unlabelled", "status"), [
    ({"convgpu.limit": "1GiB"}, "pass", 1), ({}, "guard", 1), ({}, "pass", 42),
])  # fmt: skip
def test_who_would_be_guarded_is_not_restored_from_a_checkpoint(engine, labels, unlabelled, status):
    engine.labels(labels)
    engine.publish(unlabelled=unlabelled)
    (engine.bundle / "config.json").write_text(json.dumps(engine.config))
    done = engine.call("restore", "--image-path", "/x", "--bundle", str(engine.bundle), CONTAINER)
    assert done.returncode == status
    assert ("cannot be restored" in done.stderr) == (status == 1)


def test_a_mount_that_would_undo_the_limit_is_refused(engine, daemon):
    engine.config["mounts"].append({"destination": "/etc/ld.so.preload", "type": "bind", "source": "/x"})
    status, said = engine.create()
    assert status == 1
    assert "/etc/ld.so.preload" in said


def test_without_a_daemon_guarded_containers_do_not_start(engine):
    status, said = engine.create()
    assert status == 1
    assert f"no ConvGPU daemon answers at {engine.control_socket}" in said
    assert not (engine.folder / "next.arguments").exists()


def test_without_a_daemon_they_start_where_that_is_the_policy_but_not_with_a_bad_label(engine):
    engine.publish(daemon_absent="start")
    (engine.root / "etc" / "ld.so.preload").write_bytes(b"/lib/mine.so\n")
    engine.labels({"convgpu.limit": "1GiB"})
    assert engine.create() == (42, "")
    assert engine.added() == MOUNTS
    assert engine.preload() == "/usr/local/lib/convgpu/libconvgpu.so\n/lib/mine.so\n"
    assert (engine.folder / "client").is_dir(), "the daemon that comes will listen there"
    engine.labels({"convgpu.limit": "much"})
    status, said = engine.create()
    assert status == 1
    assert "convgpu.limit" in said


def test_before_any_daemon_ran_it_says_what_is_missing(engine):
    (engine.state_dir / "runtime").unlink()
    status, said = engine.create()
    assert status == 1
    assert str(engine.state_dir / "runtime") in said


def test_a_next_runtime_that_is_not_there_is_named(engine, daemon):
    engine.publish(next="/nowhere/runc")
    status, said = engine.create()
    assert status == 1
    assert "/nowhere/runc" in said
