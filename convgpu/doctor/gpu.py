# SPDX-License-Identifier: Apache-2.0
"""Checks of the GPU: the driver's library, its device files, and the simulated GPU that can stand in."""

from __future__ import annotations

import os
from pathlib import Path

from convgpu.core.units import format_size
from convgpu.doctor.finding import Machine, Verdict
from convgpu.sources import simgpu

_NO_DRIVER_FIX = "install the NVIDIA driver, or use a simulated GPU: `sudo convgpu sim up`"


def nvml(machine: Machine) -> Verdict:
    """Ask the driver's management library for the devices."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if simgpu.status(sim_dir(machine)).running:
            return Verdict("skip", f"{error}; the simulated GPU stands in")
        return Verdict("fail", f"NVML does not start: {error}", _NO_DRIVER_FIX)
    try:
        count = pynvml.nvmlDeviceGetCount()
        driver = pynvml.nvmlSystemGetDriverVersion()
        names = {pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)}
    finally:
        pynvml.nvmlShutdown()
    if not count:
        return Verdict("fail", f"driver {driver}, and no device", "check `lspci` and the kernel log")
    return Verdict("ok", f"driver {driver}, {count} x {', '.join(sorted(names))}")


def device_files(machine: Machine) -> Verdict:
    """Look for the files that CUDA programs open, and try to open them."""
    devices = machine.root / "dev"
    if not (devices / "nvidiactl").exists():
        if simgpu.status(sim_dir(machine)).running:
            return Verdict("skip", "there is no /dev/nvidiactl; the simulated GPU stands in")
        return Verdict("fail", "there is no /dev/nvidiactl", _NO_DRIVER_FIX)
    names = ["nvidiactl", "nvidia-uvm", *sorted(path.name for path in devices.glob("nvidia[0-9]*"))]
    lacking = [f"/dev/{name}" for name in names if not os.access(devices / name, os.R_OK | os.W_OK)]
    if len(names) == 2:
        lacking.append("/dev/nvidia0")
    if lacking:
        return Verdict(
            "warn", f"cannot be opened, or do not exist: {', '.join(lacking)}", "run `sudo nvidia-modprobe -u -c 0`"
        )
    return Verdict("ok", ", ".join(f"/dev/{name}" for name in names))


def simulated(machine: Machine) -> Verdict:
    """Ask the simulated GPU's server."""
    current = simgpu.status(sim_dir(machine))
    if not current.running:
        return Verdict("skip", "not up")
    return Verdict(
        "ok", f"up (simulated): {len(current.gpus)} x {format_size(current.memory_bytes)} at {current.device_dir}"
    )


def fuse(machine: Machine) -> Verdict:
    """Try to open the device that the simulated GPU is made with."""
    path = machine.root / "dev/fuse"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Verdict(
            "warn",
            f"/dev/fuse: {error.strerror}; only the simulated GPU needs it",
            "load it with `sudo modprobe fuse`; in a container add `--device /dev/fuse`",
        )
    return Verdict("ok", "/dev/fuse can be opened")


def sim_dir(machine: Machine) -> Path:
    """Return where the simulated GPU would be."""
    return machine.root / simgpu.DEFAULT_RUN_DIR.relative_to("/")
