# SPDX-License-Identifier: Apache-2.0
"""Docker in Docker: an engine in a container. What its containers hold is charged to the outer container.

The outer container has the rights that an engine needs one by one: not every machine can give `--privileged`.
"""

from __future__ import annotations

import pytest

from convgpu.core.units import GIB, MIB
from convgpu.testing.stage import SIMULATED_STORY, Stage, output_of, pack_root, wait_until

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.fuse]

CONTEXT_BYTES = 512 * MIB
INNER = ("docker", "--host", "unix:///run/inner/docker.sock")
RIGHTS = (
    "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--device-cgroup-rule", "a *:* rwm",
    "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
    "--security-opt", "systempaths=unconfined",
)  # fmt: skip
ENGINE = """
mkdir -p /run/inner /tmp && mount -t tmpfs none /run/inner
for group in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,rw $group || mount -o remount,bind,rw $group; done
exec dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --data-root /run/inner/data \
    --exec-root /run/inner/exec --pidfile /run/inner/pid --host unix:///run/inner/docker.sock
"""
OURS = ("/run/convgpu", "/etc/ld.so.preload", "/.convgpu")
"""What `convgpu run` mounted into the outer container, handed on to the inner one."""


@pytest.fixture
def outer(stage: Stage) -> tuple[str, ...]:
    """Start an engine in a container with a limit of 3 GiB; return the words that execute something in it."""
    container = stage.container("outer", "3GiB", docker=RIGHTS)
    container.run("/usr/bin/sh", "-c", ENGINE)
    inside = ("docker", "exec", "outer")

    def answers() -> bool:
        return "true" in output_of(
            *inside, "/usr/bin/sh", "-c", f"{' '.join(INNER)} info >/dev/null 2>&1 && echo true; true"
        )

    wait_until("the inner engine answers", answers, timeout_s=60)
    (stage.folder / "root.tar").write_bytes(pack_root())
    output_of(*inside, *INNER, "import", "/stage/root.tar", "inner:latest")
    return inside


def test_what_an_inner_container_holds_is_charged_to_the_outer_one(stage: Stage, outer: tuple[str, ...]) -> None:
    mounts = [word for path in ("/usr", *OURS) for word in ("-v", f"{path}:{path}:ro")]
    gpu = [
        word if place % 2 == 0 or "/dev/" not in word else to_itself(word) for place, word in enumerate(stage.docker)
    ]
    libraries = [to_itself(word) + ":ro" if word.endswith(":ro") else word for word in gpu]
    run = ("run", "--name", "inner", "-d", "--network", "none", *mounts, *libraries, "inner:latest")
    steps = ("name=inner", "alloc=1GiB", "try=2GiB", "info", "hold=600")
    output_of(*outer, *INNER, *run, SIMULATED_STORY, *steps)
    said = wait_until("it is through", lambda: "info" in (log := output_of(*outer, *INNER, "logs", "inner")) and log)
    assert "step=try size_bytes=2147483648 code=cudaErrorMemoryAllocation" in said
    assert f"total_bytes={3 * GIB}" in said
    assert set(stage.listing()) == {"outer"}
    assert stage.device("outer")["used_bytes"] == CONTEXT_BYTES + GIB
    output_of(*outer, *INNER, "rm", "--force", "inner")
    wait_until("it gave all back", lambda: stage.device("outer")["used_bytes"] == 0)


def to_itself(volume: str) -> str:
    """Return a volume whose source, seen from within, is where the outer container has it."""
    target = volume.removesuffix(":ro").rpartition(":")[2]
    return f"{target}:{target}"
