# SPDX-License-Identifier: Apache-2.0
"""The GPU of the benchmark, simulated or real: what it gives to daemon and containers, and how programs are built."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from convgpu.sources import simgpu
from convgpu.sources.libraries import find_driver
from convgpu.sources.nvml import Nvml
from convgpu.testing.stage import StageError, output_of

PROGRAMS: Final = ("calls", "herd", "fill", "ledger_steps")
_SOURCES: Final = Path(__file__).parent
_DRIVER_IN_CONTAINER: Final = "/driver"
_SIM_DIR: Final = Path("/run/convgpu-bench-sim")


@dataclass(frozen=True)
class BenchGpu:
    """What the measurements need to know of a GPU.

    Attributes:
        label: Name and driver, for people.
        real: False: simulated.
        uuid: Its name in NVML.
        daemon: Options for `convgpu daemon`.
        docker: Options for `docker run` that give it to a container.
        nvml: NVML in this process, to look at the GPU besides the daemon.
    """

    label: str
    real: bool
    uuid: str
    nvml: Nvml
    daemon: list[str] = field(default_factory=list)
    docker: list[str] = field(default_factory=list)

    def process_bytes(self) -> dict[int, int | None]:
        """What NVML says that each process holds, by host pid."""
        return next(reading.process_bytes for reading in self.nvml.read() if reading.uuid == self.uuid)


@contextmanager
def open_gpu(kind: str, torch_python: str | None) -> Iterator[BenchGpu]:
    """Have the GPU for the length of the run."""
    if kind == "sim":
        with _simulated_gpu() as found:
            yield found
        return
    yield _real_gpu(torch_python)


@contextmanager
def _simulated_gpu() -> Iterator[BenchGpu]:
    """A simulated GPU in a folder of its own, so that one that somebody else uses is left alone."""
    output_of("convgpu", "sim", "up", "--memory", "10GiB", "--context", "512MiB", "--sim-dir", str(_SIM_DIR))
    try:
        simgpu.load_nvml(_SIM_DIR)  # leaves the folder in the environment, where the daemon finds it too
        docker = output_of("convgpu", "sim", "docker-args", "--sim-dir", str(_SIM_DIR)).split()
        nvml = Nvml()
        yield BenchGpu("simulated GPU, 10 GiB", False, nvml.gpus()[0].uuid, nvml, ["--simulated"], docker)
        nvml.close()
    finally:
        output_of("convgpu", "sim", "down", "--sim-dir", str(_SIM_DIR))


def _real_gpu(torch_python: str | None) -> BenchGpu:
    nvml = Nvml()
    gpu = nvml.gpus()[0]
    driver = find_driver()
    if driver is None:
        raise StageError("the driver's libcuda.so.1 was not found")
    found = BenchGpu(
        f"{gpu.name}, driver {nvml.driver_version()}",
        True,
        gpu.uuid,
        nvml,
        docker=[
            *("--device", f"/dev/nvidia{gpu.minor}"),
            *("--device", "/dev/nvidiactl"),
            *("--device", "/dev/nvidia-uvm"),
            *("-v", f"{driver.parent}:{_DRIVER_IN_CONTAINER}:ro"),
            *("-e", f"LD_LIBRARY_PATH={_DRIVER_IN_CONTAINER}"),
            *("-e", f"CUDA_VISIBLE_DEVICES={gpu.uuid}"),
            *_torch_mounts(torch_python),
        ],
    )
    if found.process_bytes():
        raise StageError("GPU 0 is in use: the benchmark wants it for itself, so that its figures are its own")
    return found


def _torch_mounts(python: str | None) -> list[str]:
    """Mount what the interpreter needs and /usr does not have, as whole top folders."""
    if python is None:
        return []
    code = "import sys, torch; print(sys.prefix); print(sys.base_prefix); print(torch.__file__)"
    folders = {Path("/", *Path(line).parts[1:2]) for line in output_of(python, "-c", code).splitlines()}
    return [word for top in sorted(folders - {Path("/usr")}) for word in ("-v", f"{top}:{top}:ro")]


def build_programs(gpu: BenchGpu, folder: Path) -> None:
    """Compile the programs into a folder, all with the CUDA runtime linked in statically, as most are."""

    def build(name: str) -> None:
        source, target = str(_SOURCES / f"{name}.cu"), str(folder / name)
        if gpu.real:
            command = ["nvcc", "-std=c++17", "-O2", "-arch=native", "-cudart", "static", "-o", target, source]
        else:
            library = simgpu.library_file("libcudart_static.a")
            command = ["g++", "-x", "c++", "-std=c++17", "-O2", f"-I{library.parent}/include", "-o", target, source]
            command += ["-x", "none", str(library), "-ldl", "-lpthread"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise StageError(f"{command[0]} is not on the PATH: the programs are compiled with it") from error
        except subprocess.CalledProcessError as error:
            raise StageError(f"{command[0]} failed on {source}: {error.stderr.strip()}") from error

    with ThreadPoolExecutor() as pool:
        list(pool.map(build, PROGRAMS))
