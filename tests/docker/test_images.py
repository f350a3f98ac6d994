# SPDX-License-Identifier: Apache-2.0
"""Images with a libc of their own, from older and newer Debians, with nothing of the host's /usr.

`tools/setup --test` assembled them from Debian's packages (tools/debian-root).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.stage import SIMULATED_STORY, Stage, output_of

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse]

IMAGES = Path(sys.prefix).parent / "images"
LIBC = ("/bin/sh", "-c", "exec /lib/x86_64-linux-gnu/libc.so.6")
CONTEXT_BYTES = 512 * MIB


def make(name: str) -> str:
    """Import one of the root folders as an image."""
    if not (IMAGES / name).is_dir():
        pytest.skip(f"tools/debian-root had no packages for {name}")
    packed = subprocess.run(["tar", "-C", str(IMAGES / name), "-cf", "-", "."], check=True, capture_output=True).stdout
    image = f"convgpu-stage-{name}:latest"
    subprocess.run(["docker", "import", "-", image], input=packed, check=True, capture_output=True)
    return image


@pytest.fixture
def image(request: pytest.FixtureRequest, stage: Stage) -> Iterator[str]:
    made = make(request.param)
    yield made
    output_of("docker", "rmi", "--force", made)


@pytest.mark.parametrize(
    ("image", "libc"), [("bullseye", "2.31"), ("bookworm", "2.36"), ("unstable", "2.4")], indirect=["image"]
)
def test_the_limit_holds_with_the_images_own_libc(stage: Stage, image: str, libc: str) -> None:
    bare = ("docker", "run", "--rm", "--network", "none", image)
    assert f"stable release version {libc}" in output_of(*bare, *LIBC)
    container = stage.container("other-libc", "2GiB")
    words = [*container_words(stage, "other-libc"), image, SIMULATED_STORY, "name=x", "alloc=1GiB", "try=1GiB", "info"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step=alloc size_bytes=1073741824 code=cudaSuccess" in done.stdout
    assert "step=try size_bytes=1073741824 code=cudaErrorMemoryAllocation" in done.stdout
    assert f"total_bytes={2 * GIB}" in done.stdout
    assert container.name in {record["container"]["name"] for record in seen(stage)}


def container_words(stage: Stage, name: str) -> list[str]:
    labels = ("--label", "convgpu-stage=1")
    return ["convgpu", "run", "--limit", "2GiB", "--", "--name", name, *labels, "--network", "none", *stage.docker]


def seen(stage: Stage) -> list[dict[str, Any]]:
    return [record for record in stage.log().follow() if record["type"] == "process.seen"]


@pytest.mark.parametrize("image", ["bullseye", "unstable"], indirect=True)
def test_a_shell_in_it_loads_the_library_at_its_usual_place(stage: Stage, image: str) -> None:
    stage.names.append("shell")
    look = 'while read -r line; do case $line in *convgpu*) echo "$line";; esac; done </proc/self/maps'
    done = subprocess.run(
        [*container_words(stage, "shell"), image, "/bin/sh", "-c", look], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), "a symbol that the old libc has not would be named here"
    assert "/usr/local/lib/convgpu/libconvgpu.so" in done.stdout


@pytest.mark.parametrize("image", ["musl"], indirect=True)
def test_musl_itself_is_refused_and_makes_no_container(stage: Stage, image: str, command: Any) -> None:
    done = command("convgpu", "run", "--limit", "1GiB", "--", "--name", "never", image, "true")
    assert done.returncode == 2
    assert "is built on musl" in done.stderr
    assert command("docker", "inspect", "never").returncode != 0
