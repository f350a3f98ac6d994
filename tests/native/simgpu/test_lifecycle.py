# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping: idempotent, after crashes too, and never somebody else's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sim, wait_until

from convgpu.core.units import GIB, MIB
from convgpu.errors import EnvironmentMissingError
from convgpu.sources import simgpu

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder whose simulated GPU, if any, ends with the test; its name must survive being looked up in mountinfo."""
    folder = tmp_path / "with blank"
    yield folder
    simgpu.down(folder)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def _gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_up_and_down(run_dir: Path) -> None:
    before = simgpu.status(run_dir)
    assert (before.running, before.pid, before.used_bytes, before.gpus) == (False, None, None, ())
    up = simgpu.up(run_dir, memory_bytes=GIB, context_bytes=64 * MIB, gpus=2)
    assert (up.running, up.memory_bytes, up.context_bytes, len(up.gpus), up.used_bytes) == (True, GIB, 64 * MIB, 2, 0)
    assert up.pid is not None
    assert {path.name for path in up.device_dir.iterdir()} == {
        "nvidiactl",
        "nvidia-uvm",
        "nvidia0",
        "nvidia1",
        "status",
    }
    assert simgpu.status(run_dir) == up
    assert not simgpu.down(run_dir).running
    assert _gone(up.pid)
    assert not simgpu.down(run_dir).running


def test_up_again_finds_the_same_and_refuses_another(run_dir: Path) -> None:
    first = simgpu.up(run_dir, memory_bytes=GIB)
    assert simgpu.up(run_dir, memory_bytes=GIB) == first
    for other in (
        {"memory_bytes": 2 * GIB},
        {"memory_bytes": GIB, "gpus": 2},
        {"memory_bytes": GIB, "context_bytes": 1},
    ):
        with pytest.raises(EnvironmentMissingError, match="already runs") as caught:
            simgpu.up(run_dir, **other)
        assert caught.value.next_step is not None
        assert "convgpu sim down" in caught.value.next_step
    assert simgpu.status(run_dir) == first


def test_a_dead_server_and_its_stale_mount_are_cleared_away(run_dir: Path) -> None:
    first = simgpu.up(run_dir)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: _gone(first.pid or 0), "killed")
    with pytest.raises(OSError, match="not connected"):
        list(first.device_dir.iterdir())
    assert not simgpu.status(run_dir).running
    second = simgpu.up(run_dir)
    assert second.running
    assert second.pid != first.pid


def test_down_after_a_crash_leaves_no_mount(run_dir: Path) -> None:
    pid = simgpu.up(run_dir).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _gone(pid), "killed")
    assert not simgpu.down(run_dir).running
    assert list((run_dir / "dev").iterdir()) == []


def test_users_see_an_error_when_it_goes_and_the_rest_goes_on(run_dir: Path, story: Path, tmp_path: Path) -> None:
    """A descriptor that outlives the server must not keep it, or the mount, alive."""
    simgpu.up(run_dir)
    sim = Sim(run_dir)
    program = sim.start(story, "name=left", "alloc=1GiB", f"wait-file={tmp_path / 'go'}", "try=1GiB")
    wait_until(lambda: sim.used() == GIB + 512 * MIB, "it holds memory")
    assert not simgpu.down(run_dir).running
    (tmp_path / "go").touch()
    assert "cudaErrorOperatingSystem" in program.communicate(timeout=10)[0]
    assert program.returncode == 1
    assert simgpu.up(run_dir).used_bytes == 0


def test_down_ends_only_what_up_started(run_dir: Path) -> None:
    (run_dir / "dev").mkdir(parents=True)
    server = subprocess.Popen([simgpu.library_file("simgpu-rm"), run_dir / "dev"])
    wait_until(lambda: simgpu.status(run_dir).running, "mounted")
    with pytest.raises(EnvironmentMissingError, match="was not started by"):
        simgpu.down(run_dir)
    assert server.poll() is None
    server.terminate()
    assert server.wait(timeout=10) == 0
    assert not simgpu.status(run_dir).running


def test_a_pid_that_was_used_again_is_left_alone(run_dir: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    run_dir.mkdir()
    (run_dir / "simgpu-rm.pid").write_text(f"{bystander.pid} 1\n")
    assert not simgpu.down(run_dir).running
    assert bystander.poll() is None
    assert not (run_dir / "simgpu-rm.pid").exists()
    bystander.kill()
    bystander.wait()


def test_containers_get_files_and_libraries(run_dir: Path) -> None:
    with pytest.raises(EnvironmentMissingError, match="does not run"):
        simgpu.docker_arguments(run_dir)
    simgpu.up(run_dir, gpus=2)
    arguments = simgpu.docker_arguments(run_dir)
    mounts = [arguments[at + 1] for at, word in enumerate(arguments) if word == "-v"]
    device_dir = run_dir / "dev"
    assert mounts[:-1] == [
        f"{device_dir / name}:/dev/{name}" for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1")
    ]
    assert mounts[-1] == f"{simgpu.library_dir()}:/opt/convgpu-sim:ro"
    assert arguments[-2:] == ["-e", "LD_LIBRARY_PATH=/opt/convgpu-sim"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simgpu, "_FUSE", tmp_path / "no-fuse")
    with pytest.raises(EnvironmentMissingError, match="needs FUSE") as caught:
        simgpu.up(tmp_path / "run")
    assert "modprobe fuse" in (caught.value.next_step or "")
    unbuilt = tmp_path / "native"
    (unbuilt / "include").mkdir(parents=True)
    (unbuilt / "include" / "convgpu_abi.h").touch()
    monkeypatch.setenv("CONVGPU_NATIVE_DIR", str(unbuilt))
    with pytest.raises(EnvironmentMissingError, match="simulated GPU is not in") as caught:
        simgpu.up(tmp_path / "run")
    assert "libfuse3-dev" in (caught.value.next_step or "")
    assert simgpu.status(tmp_path / "run").library_dir is None


@pytest.mark.parametrize(
    "words",
    [
        ["--gpus", "0"],
        ["--gpus", "17"],
        ["--memory-bytes", "-1"],
        ["--memory-bytes", "lots"],
        ["--uuid", "0=GPU-123"],
        ["--uuid", "1=GPU-00000000-0000-0000-0000-000000000001"],
        ["--pci", "0=0000:00:06"],
        ["--pci", "0=0000:00:1f.1"],
        ["--colour", "blue"],
    ],
    ids=" ".join,
)
def test_the_server_refuses_what_it_does_not_understand(words: list[str], tmp_path: Path) -> None:
    server = str(simgpu.library_file("simgpu-rm"))
    done = subprocess.run([server, *words, str(tmp_path)], capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, bool(done.stderr), done.stdout) == (2, True, "")


def test_uuid_and_address_can_be_chosen(run_dir: Path) -> None:
    (run_dir / "dev").mkdir(parents=True)
    uuid = "GPU-0a0b0c0d-1111-2222-3333-444455556666"
    words = ["--uuid", f"0={uuid}", "--pci", "0=0001:3b:00.0", str(run_dir / "dev")]
    server = subprocess.Popen([str(simgpu.library_file("simgpu-rm")), *words])
    wait_until(lambda: simgpu.status(run_dir).running, "mounted")
    (gpu,) = simgpu.status(run_dir).gpus
    assert (gpu.uuid, gpu.pci) == (uuid, "0001:3b:00.0")
    server.terminate()
    assert server.wait(timeout=10) == 0
