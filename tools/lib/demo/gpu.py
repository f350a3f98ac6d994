# SPDX-License-Identifier: Apache-2.0
"""The GPU of the demo: the simulated one, or the machine's own; each gives its daemon options and container options."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convgpu.testing.stage import SIMULATED_STORY, StageError, output_of, simulated_gpu

GIB = 1 << 30
_STORY_SOURCE = Path(__file__).parents[2] / "story"
_DRIVER_IN_CONTAINER = "/driver"


@dataclass(frozen=True)
class DemoGpu:
    """What the story needs to know of a GPU.

    Attributes:
        label: What a person reads.
        daemon: Options for `convgpu daemon`.
        docker: Options for `docker run` that give the GPU to a container.
        story: The story program, as a container sees it.
        torch: The Python interpreter with PyTorch for beta; None: beta runs the story program too.
    """

    label: str
    daemon: list[str]
    docker: list[str]
    story: str
    torch: str | None = None


@contextmanager
def open_gpu(kind: str, folder: Path, torch_python: str | None) -> Iterator[DemoGpu]:
    """Have the GPU for the length of the story."""
    if kind == "sim":
        with simulated_gpu() as docker:
            yield DemoGpu(
                label="simulated GPU, 10 GiB",
                daemon=["--simulated"],
                docker=docker,
                story=SIMULATED_STORY,
            )
        return
    yield _real_gpu(folder, torch_python)


def _real_gpu(folder: Path, torch_python: str | None) -> DemoGpu:
    if not Path("/dev/nvidiactl").exists():
        raise StageError("there is no NVIDIA GPU here (/dev/nvidiactl); leave out --gpu real for the simulated one")
    from convgpu.sources.libraries import find_driver
    from convgpu.sources.nvml import Nvml

    nvml = Nvml()
    gpu = nvml.gpus()[0]
    driver = find_driver()
    if driver is None:
        raise StageError("the driver's libcuda.so.1 was not found")
    if not any(reading.uuid == gpu.uuid and not reading.process_bytes for reading in nvml.read()):
        raise StageError("GPU 0 is in use: the demo wants it for itself, so that its figures are its own")
    _compile_story(folder)
    docker = [
        "--device",
        f"/dev/nvidia{gpu.minor}",
        "--device",
        "/dev/nvidiactl",
        "--device",
        "/dev/nvidia-uvm",
        "-v",
        f"{driver.parent}:{_DRIVER_IN_CONTAINER}:ro",
        "-e",
        f"LD_LIBRARY_PATH={_DRIVER_IN_CONTAINER}",
        "-e",
        f"CUDA_VISIBLE_DEVICES={gpu.uuid}",
    ]
    if torch_python is not None:
        prefix = output_of(torch_python, "-c", "import sys; print(sys.prefix)").strip()
        top = Path("/", *Path(prefix).parts[1:2])
        if top != Path("/usr"):
            docker += ["-v", f"{top}:{top}:ro"]
    version = nvml.driver_version()
    nvml.close()
    return DemoGpu(
        label=f"{gpu.name}, driver {version}, of which 10 GiB are shared out",
        daemon=["--capacity", f"{gpu.uuid}=10GiB"],
        docker=docker,
        story="/stage/story",
        torch=torch_python,
    )


def _compile_story(folder: Path) -> None:
    """Build the story with the CUDA runtime linked in statically, as most CUDA programs are."""
    command = ["nvcc", "-cudart", "static", "-o", str(folder / "story"), str(_STORY_SOURCE / "story.c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise StageError("nvcc is not on the PATH: the real GPU's story is compiled with it") from error
    except subprocess.CalledProcessError as error:
        raise StageError(f"nvcc failed: {error.stderr.strip()}") from error


def torch_story(folder: Path) -> str:
    """Put the PyTorch story where containers see it; return its path there."""
    target = folder / "torch_story.py"
    target.write_text((_STORY_SOURCE / "torch_story.py").read_text())
    return "/stage/torch_story.py"
