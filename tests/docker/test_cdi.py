# SPDX-License-Identifier: Apache-2.0
"""The CDI device in Podman, which reads /etc/cdi: the library is preloaded, and the hook refuses bad values."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convgpu.testing.stage import output_of, pack_root

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("podman") is None, reason="no podman"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc"),
]

IMAGE = "convgpu-cdi-test:latest"
SPECIFICATION = Path("/etc/cdi/convgpu-test.json")
Podman = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Podman]:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONVGPU_CONFIG", str(config))
    folder = tempfile.mkdtemp(prefix="cvg-")  # Podman takes no path of more than 50 characters
    own = ("podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run")
    own += ("--events-backend", "file", "--cgroup-manager", "cgroupfs", "--runtime", "runc")

    def call(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*own, *words], input=stdin, capture_output=True, check=False)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    loaded = call("import", "-", IMAGE, stdin=pack_root())
    if loaded.returncode:
        pytest.skip(f"podman does not work here: {loaded.stderr.strip()}")
    output_of("convgpu", "cdi", "generate", "--output", str(SPECIFICATION))
    yield call
    SPECIFICATION.unlink()
    call("rm", "--all", "--force")
    subprocess.run(["umount", "--lazy", f"{folder}/root/overlay"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)  # its mounts may take a moment to go


def run(podman: Podman, *options: str) -> subprocess.CompletedProcess[str]:
    # Limits of the open files and processes that need no right to raise them.
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
    return podman(
        "run", "--rm", "--network", "none", *limits, "-v", "/usr:/usr:ro", *options, IMAGE,
        "/usr/bin/cat", "/etc/ld.so.preload", "/proc/self/maps",
    )  # fmt: skip


def test_the_device_preloads_the_library(podman: Podman) -> None:
    done = run(podman, "--device", "convgpu.dev/guard=default", "--annotation", "convgpu.limit=1GiB")
    assert done.returncode == 0, done.stderr
    preload, *maps = done.stdout.splitlines()
    assert preload == "/.convgpu/libconvgpu.so"
    assert any(line.endswith("/.convgpu/libconvgpu.so") and " r-xp " in line for line in maps)


def test_a_bad_annotation_starts_nothing_and_is_named(podman: Podman) -> None:
    done = run(podman, "--device", "convgpu.dev/guard=default", "--annotation", "convgpu.limit=much")
    assert done.returncode != 0
    assert "label convgpu.limit: 'much' is not a size" in done.stderr
    assert done.stdout == ""


def test_an_unknown_device_starts_nothing(podman: Podman) -> None:
    assert run(podman, "--device", "convgpu.dev/guard=other").returncode != 0
