# SPDX-License-Identifier: Apache-2.0
"""The simulated GPU: start and stop its FUSE server, ask it, and give it to containers and to NVML.

The server plays /dev/nvidiactl in a folder of its own; libraries with NVIDIA's names talk to it (tools/simgpu).
Whatever is shown from it must be labelled *simulated*.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convgpu.core.units import GIB, format_size
from convgpu.errors import EnvironmentMissingError
from convgpu.native import native_dir
from convgpu.sources.procfs import ProcessGoneError, start_ticks

DEFAULT_RUN_DIR: Final = Path("/run/convgpu-sim")
DEFAULT_MEMORY_BYTES: Final = 10 * GIB
DEFAULT_CONTEXT_BYTES: Final = GIB // 2

CONTAINER_LIBRARY_DIR: Final = Path("/opt/convgpu-sim")
"""Where containers see the libraries: outside /usr, which some images mount read-only."""

DEVICE_ENVIRONMENT: Final = "CONVGPU_SIM_DEV"
"""Names the folder of device files for the simulated libraries; SIM_DEV_ENVIRONMENT in abi/sim_abi.h."""

_FUSE: Final = Path("/dev/fuse")
_START_S: Final = 10.0
_STOP_S: Final = 5.0
_MNT_DETACH: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedGpu:
    """One simulated device. `instance` is the resource manager's number for it, `index` NVML's: they differ."""

    index: int
    instance: int
    uuid: str
    pci: str
    name: str
    total_bytes: int
    used_bytes: int
    context_bytes: int
    process_bytes: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimStatus:
    """The simulated GPU at one moment. What is not known because nothing runs is None or empty."""

    running: bool
    pid: int | None
    run_dir: Path
    device_dir: Path
    library_dir: Path | None
    gpus: tuple[SimulatedGpu, ...]

    @property
    def memory_bytes(self) -> int | None:
        """Memory of each device."""
        return self.gpus[0].total_bytes if self.gpus else None

    @property
    def context_bytes(self) -> int | None:
        """What a context costs on each device."""
        return self.gpus[0].context_bytes if self.gpus else None

    @property
    def used_bytes(self) -> int | None:
        """Memory in use, summed over the devices."""
        return sum(gpu.used_bytes for gpu in self.gpus) if self.gpus else None


def library_dir() -> Path:
    """Return the folder with server, libraries, headers and demo program.

    Raises:
        EnvironmentMissingError: They were not built.
    """
    folder = native_dir() / "simgpu"
    if not (folder / "simgpu-rm").is_file():
        raise EnvironmentMissingError(
            f"the simulated GPU is not in {folder}",
            next_step="install libfuse3-dev and pkg-config, then build again (`tools/setup`)",
        )
    return folder


def library_file(name: str) -> Path:
    """Return one of its libraries, such as `libcuda.so.1`, as the host sees it.

    Raises:
        EnvironmentMissingError: It was not built.
    """
    path = library_dir() / name
    if not path.is_file():
        raise EnvironmentMissingError(f"the simulated GPU has no {name}", next_step="build again (`tools/setup`)")
    return path


def up(
    run_dir: Path = DEFAULT_RUN_DIR,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    context_bytes: int = DEFAULT_CONTEXT_BYTES,
    gpus: int = 1,
) -> SimStatus:
    """Start the simulated GPU, or find it running with the same parameters.

    Args:
        run_dir: Holds the device folder `dev`, pid file and log.
        memory_bytes: Memory of each GPU.
        context_bytes: What a CUDA context costs.
        gpus: How many, 1 to 16.

    Raises:
        EnvironmentMissingError: FUSE, root or the built parts are missing; it runs with other parameters; or the server
            does not start.
    """
    server = library_file("simgpu-rm")
    with _alone(run_dir):
        before = status(run_dir)
        if before.running:
            _check_same(before, memory_bytes, context_bytes, gpus)
            return before
        _check_machine()
        _stop(run_dir)  # one that lives but has lost its mount serves nobody
        _remove_stale(run_dir)
        before.device_dir.mkdir(mode=0o755, exist_ok=True)
        options = {
            "--pid-file": _pid_file(run_dir),
            "--memory-bytes": memory_bytes,
            "--context-bytes": context_bytes,
            "--gpus": gpus,
        }
        words = [str(word) for option in options.items() for word in option]
        _start([str(server), "--background", *words, str(before.device_dir)], run_dir / "simgpu-rm.log")
        return status(run_dir)


def down(run_dir: Path = DEFAULT_RUN_DIR) -> SimStatus:
    """Stop the server that `up` started, and clear away what a dead one left. Nothing running is no error.

    Raises:
        EnvironmentMissingError: A server runs there that `up` did not start.
    """
    if not run_dir.exists():
        return status(run_dir)
    with _alone(run_dir):
        before = status(run_dir)
        started = _started(run_dir)
        if before.running and (started is None or started[0] != before.pid):
            raise EnvironmentMissingError(
                f"the simulated GPU at {before.device_dir} (pid {before.pid}) was not started by `convgpu sim up`",
                next_step=f"end it yourself: `kill {before.pid}`",
            )
        _stop(run_dir)
        _remove_stale(run_dir)
        return status(run_dir)


def status(run_dir: Path = DEFAULT_RUN_DIR) -> SimStatus:
    """Ask the server; a dead one, a stale mount and an empty folder all mean that nothing runs."""
    device_dir = run_dir / "dev"
    state = _read_state(device_dir)
    try:
        folder: Path | None = library_dir()
    except EnvironmentMissingError:
        folder = None
    return SimStatus(
        running=state is not None,
        pid=state["pid"] if state else None,
        run_dir=run_dir,
        device_dir=device_dir,
        library_dir=folder,
        gpus=tuple(_gpu(gpu) for gpu in state["gpus"]) if state else (),
    )


def docker_arguments(run_dir: Path = DEFAULT_RUN_DIR) -> list[str]:
    """Return the `docker run` arguments that give the simulated GPUs to a container.

    Raises:
        EnvironmentMissingError: It does not run.
    """
    current = status(run_dir)
    if not current.running:
        raise EnvironmentMissingError("the simulated GPU does not run", next_step="start it with `convgpu sim up`")
    names = ["nvidiactl", "nvidia-uvm", *(f"nvidia{gpu.index}" for gpu in current.gpus)]
    arguments = [word for name in names for word in ("-v", f"{current.device_dir / name}:/dev/{name}")]
    return [
        *arguments,
        *("-v", f"{library_dir()}:{CONTAINER_LIBRARY_DIR}:ro"),
        *("-e", f"LD_LIBRARY_PATH={CONTAINER_LIBRARY_DIR}"),
    ]


def load_nvml(run_dir: Path = DEFAULT_RUN_DIR) -> None:
    """Load the simulated libnvidia-ml into this process; nvidia-ml-py then finds it under NVIDIA's name.

    Call it before the first `pynvml.nvmlInit()`. A run folder other than the default is written to this process's
    environment, where the library looks for it.

    Raises:
        EnvironmentMissingError: The library was not built.
    """
    if run_dir != DEFAULT_RUN_DIR:
        os.environ[DEVICE_ENVIRONMENT] = str(run_dir / "dev")
    ctypes.CDLL(str(library_file("libnvidia-ml.so.1")), mode=ctypes.RTLD_GLOBAL)


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Keep two starts or stops of the same simulated GPU apart."""
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = (run_dir / "lock").open("w")
    except PermissionError as error:
        raise EnvironmentMissingError(
            f"the simulated GPU's folder {run_dir} cannot be written", next_step="use sudo"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _gpu(state: dict[str, Any]) -> SimulatedGpu:
    processes = {process["pid"]: process["used_bytes"] for process in state.pop("processes")}
    return SimulatedGpu(**state, process_bytes=processes)


def _read_state(device_dir: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((device_dir / "status").read_bytes())
    except (OSError, ValueError):  # ENOENT: never mounted; ENOTCONN: the server is dead
        return None
    return state


def _start(command: list[str], log: Path) -> None:
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", timeout=_START_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EnvironmentMissingError(
                f"the simulated GPU did not start within {_START_S:.0f} s", next_step=f"see {log}"
            ) from error
    if done.returncode != 0:
        reason = log.read_text(errors="replace").strip().splitlines()
        raise EnvironmentMissingError(
            f"the simulated GPU did not start: {reason[-1] if reason else f'status {done.returncode}'}",
            next_step="check that FUSE works here: `ls -l /dev/fuse`, and in a container `--device /dev/fuse` and "
            "`--cap-add SYS_ADMIN`",
        )


def _check_same(current: SimStatus, memory_bytes: int, context_bytes: int, gpus: int) -> None:
    wanted = (memory_bytes, context_bytes, gpus)
    found = (current.memory_bytes, current.context_bytes, len(current.gpus))
    if wanted == found:
        return
    raise EnvironmentMissingError(
        f"the simulated GPU already runs at {current.device_dir} with {found[2]} x {format_size(found[0])} and "
        f"{format_size(found[1])} a context, not {gpus} x {format_size(memory_bytes)} and {format_size(context_bytes)}",
        next_step="end its users, then `convgpu sim down`",
    )


def _check_machine() -> None:
    if not _FUSE.exists():
        raise EnvironmentMissingError(
            f"the simulated GPU needs FUSE, and there is no {_FUSE}",
            next_step="load it with `modprobe fuse`; in a container add `--device /dev/fuse`",
        )
    if os.geteuid() != 0:
        raise EnvironmentMissingError(
            "only root can start the simulated GPU: it reads the memory of the processes that use it",
            next_step="use sudo",
        )


def _pid_file(run_dir: Path) -> Path:
    return run_dir / "simgpu-rm.pid"


def _started(run_dir: Path) -> tuple[int, int] | None:
    """Return pid and start time of the server that the pid file names, or None."""
    try:
        pid, ticks = _pid_file(run_dir).read_text().split()
        return int(pid), int(ticks)
    except (OSError, ValueError):
        return None


def _stop(run_dir: Path) -> None:
    """End the server of the pid file if it is still that process: SIGTERM, and SIGKILL where that is not enough."""
    started = _started(run_dir)
    if started is None:
        return
    pid, ticks = started
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_ticks(pid) != ticks:  # read after the descriptor is open: the pid was used again
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], _STOP_S)[0]:
                return
    except (ProcessGoneError, ProcessLookupError):
        return
    finally:
        os.close(process)


def _remove_stale(run_dir: Path) -> None:
    """Unmount what is mounted on the device folder and forget the pid; only called when no server lives."""
    device_dir = run_dir / "dev"
    libc = ctypes.CDLL(None, use_errno=True)
    while _is_mounted(device_dir):
        if libc.umount2(os.fsencode(device_dir), _MNT_DETACH) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise EnvironmentMissingError(
                f"cannot unmount the dead simulated GPU at {device_dir}: {reason}",
                next_step=f"unmount it: `sudo umount -l {device_dir}`",
            )
    _pid_file(run_dir).unlink(missing_ok=True)


def _is_mounted(path: Path) -> bool:
    """Tell whether our file system is mounted there, by the kernel's list: a dead mount cannot be looked at."""
    # mountinfo: ... mount point (5th) ... - type source options; blanks in a path are written \040.
    wanted = str(path.parent.resolve() / path.name).replace("\\", "\\134").replace(" ", "\\040")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[4] == wanted and after.split(" ")[1] == "simgpu-rm":
            return True
    return False
