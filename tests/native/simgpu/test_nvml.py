# SPDX-License-Identifier: Apache-2.0
"""libnvidia-ml: what nvidia-ml-py says of the simulated GPU, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, Sim, wait_until

from convgpu.core.units import GIB, MIB

pytestmark = [pytest.mark.root, pytest.mark.fuse]

PRELUDE = """
import ctypes, json, os, sys
from pathlib import Path
from convgpu.sources import simgpu
simgpu.load_nvml(Path(sys.argv[1]))
import pynvml
"""


def _ask(sim: Sim, code: str) -> Any:
    """Run code in a process of its own, for a library once loaded stays; it prints one JSON value."""
    words = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(sim.run_dir)]
    environment = {name: text for name, text in os.environ.items() if name != "CONVGPU_SIM_DEV"}
    done = subprocess.run(words, cwd=HERE, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FIGURES = """
    pynvml.nvmlInit()
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        second = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        assert (memory.total, memory.free, memory.used) == (second.total, second.free, second.used)
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        found.append([memory.total, memory.used, {p.pid: p.usedGpuMemory for p in processes}])
    print(json.dumps(found))
"""


def test_it_is_described_as_it_is(two_gpus: Sim) -> None:
    answer = _ask(
        two_gpus,
        """
        pynvml.nvmlInit()
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid, pci = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetPciInfo(handle)
            assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == index
            assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(pci.busId)) == index
            assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 0
            assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) < 50
            found.append([uuid, pynvml.nvmlDeviceGetName(handle), pci.busId, pci.bus, pci.device,
                          pynvml.nvmlDeviceGetMinorNumber(handle)])
        print(json.dumps([pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion(), found]))
        """,
    )
    version, cuda_version, found = answer
    assert (version, cuda_version) == ("580.159.04-sim", 13000)
    uuid = "GPU-5e5e0000-0000-4000-8000-00000000000"
    assert found == [
        [f"{uuid}0", "Simulated GPU", "00000000:00:06.0", 0, 6, 0],
        [f"{uuid}1", "Simulated GPU", "00000000:00:07.0", 0, 7, 1],
    ]


def test_figures_are_exact_at_every_step(sim: Sim, story: Path, tmp_path: Path) -> None:
    """Ledger of the boundary = NVML, for two processes at once, whatever they do."""
    steps = ["alloc=1GiB", "alloc=1025KiB", "alloc=1KiB", "free"]
    costs_bytes = [GIB, GIB + 2 * MIB, GIB + 4 * MIB, 0]
    words = [word for at, step in enumerate(steps) for word in (step, f"wait-file={tmp_path / str(at)}")]
    first = sim.start(story, "name=first", *words)
    second = sim.start(story, "name=second", "alloc=3GiB", "hold=60")
    for at, cost_bytes in enumerate(costs_bytes):
        expected = {first.pid: cost_bytes + 512 * MIB, second.pid: 3 * GIB + 512 * MIB}
        wait_until(lambda: sim.status().gpus[0].process_bytes == expected, f"step {at}")  # noqa: B023
        ((total, used, processes),) = _ask(sim, FIGURES)
        assert {int(pid): size for pid, size in processes.items()} == expected
        assert (total, used) == (10 * GIB, sum(expected.values()))
        (tmp_path / str(at)).touch()
    assert first.wait(timeout=10) == 0


def test_room_for_the_processes_is_asked_for_as_nvml_does(sim: Sim) -> None:
    """Measured: too little room is code 7 with the number there are; room without an array is code 2."""
    for _ in range(2):
        rm = sim.client()
        assert rm.memory(rm.device(), MIB)[0] == 0
    answer = _ask(
        sim,
        """
        pynvml.nvmlInit()
        call = pynvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        array = (pynvml.c_nvmlProcessInfo_v3_t * 3)()
        answers = []
        for room, where in ((0, None), (1, array), (3, array), (1, None)):
            count = ctypes.c_uint(room)
            answers.append([call(handle, ctypes.byref(count), where), count.value])
        answers.append([call(handle, None, array), array[0].usedGpuMemory])
        print(json.dumps(answers))
        """,
    )
    assert answer == [[7, 1], [0, 1], [0, 1], [2, 1], [2, 2 * MIB]]


def test_more_processes_than_fit_in_one_answer_are_all_listed(sim: Sim) -> None:
    code = (
        "from pathlib import Path; from rm_client import RmClient; import os, signal, sys\n"
        "ends = os.pipe()\n"
        "for n in range(131):\n"
        "    if os.fork() == 0:\n"
        "        os.close(ends[1])\n"
        "        rm = RmClient(Path(sys.argv[1])); rm.memory(rm.device(), 65536 * (n + 1))\n"
        "        os.read(ends[0], 1); os._exit(0)\n"
        "print('forked', flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(sim.device_dir)]
    parent = subprocess.Popen(words, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "forked\n"
    wait_until(lambda: len(sim.status().gpus[0].process_bytes) == 131, "131 processes hold memory")
    ((_, used, processes),) = _ask(sim, FIGURES)
    assert sorted(processes.values()) == [65536 * (n + 1) for n in range(131)]
    assert used == sum(processes.values())
    parent.communicate("go")  # the parent ends, and its end of the pipe with it
    wait_until(sim.empty, "all have ended")


def test_a_simulated_gpu_that_is_not_there_is_a_driver_that_is_not_loaded(tmp_path: Path) -> None:
    code = """
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            print(json.dumps([error.value, str(error)]))
        """
    assert _ask(Sim(tmp_path), code) == [9, "Driver Not Loaded"]


def test_before_init_every_question_is_refused(sim: Sim) -> None:
    code = """
        pynvml._LoadNvmlLibrary()
        call, count = pynvml.nvmlLib.nvmlDeviceGetCount_v2, ctypes.c_uint()
        before = [call(ctypes.byref(count)), pynvml.nvmlLib.nvmlShutdown()]
        pynvml.nvmlInit(); pynvml.nvmlInit(); pynvml.nvmlShutdown()
        between = call(ctypes.byref(count))
        pynvml.nvmlShutdown()
        print(json.dumps([before, between, count.value, call(ctypes.byref(count))]))
        """
    assert _ask(sim, code) == [[1, 1], 0, 1, 1]
