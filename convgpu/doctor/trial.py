# SPDX-License-Identifier: Apache-2.0
"""The check of return probes with a real container, under the engine's own seccomp filter.

On x86-64, kernels 6.11 to 6.13 come back from a return probe by a system call of its own. A filter that does not know
it refuses it, and the process dies. A version tells what is likely; this tells what is.

The program is ours (`wrapper/src/trial.c`), bound into an image that is empty, and so is the file that is probed: no
other process of the machine is touched.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import signal
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convgpu.doctor.engine import connected
from convgpu.doctor.finding import Machine, Verdict
from convgpu.errors import EnvironmentMissingError
from convgpu.native import native_dir
from convgpu.sources.ebpf import return_probes_are_safe
from convgpu.sources.elf import Function, find_functions
from convgpu.sources.perf_probe import PerfProbe

PROGRAM_NAME: Final = "convgpu-trial"
_FUNCTION: Final = "cvg_trial"
_IN_CONTAINER: Final = "/convgpu-trial"
_CALLS: Final = 7
"""How often the program calls its function; CALLS in trial.c."""
_REPOSITORY: Final = "convgpu-doctor"
_RUN_S: Final = 30
_SIGNALLED: Final = 128
"""Above it, a container's exit code is this and the number of a signal."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one run came to.

    Attributes:
        exit_code: Of the container.
        hits: How often the probe was hit.
    """

    exit_code: int
    hits: int

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.exit_code > _SIGNALLED:
            return f"killed by {signal.Signals(self.exit_code - _SIGNALLED).name}"
        return f"status {self.exit_code}"


def trial_program(folder: Path) -> Path:
    """Return the program.

    Raises:
        EnvironmentMissingError: It was not built.
    """
    program = folder / PROGRAM_NAME
    if not program.is_file():
        raise EnvironmentMissingError(
            f"there is no {program}", next_step="install the package again, or run `sudo tools/setup`"
        )
    return program


def trial_function(program: Path) -> Function:
    """Return the function that is probed."""
    descriptor = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return find_functions(descriptor, (_FUNCTION,))[_FUNCTION]
    finally:
        os.close(descriptor)


def return_probes(machine: Machine) -> Verdict:
    """Run a program in a container whose function has a return probe, and see whether it lives."""
    if os.geteuid() != 0:
        return Verdict("skip", "to probe a container needs root", "run `sudo convgpu doctor`")
    release = (machine.read("proc/sys/kernel/osrelease") or "").strip()
    safe = return_probes_are_safe(release, platform.machine())
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(connected())
        except EnvironmentMissingError:
            return Verdict("skip", "there is no engine to try it with", "see Docker above")
        try:
            program = trial_program(native_dir())
            plain = _run(client, program, None, machine)
            probed = _run(client, program, trial_function(program), machine)
        except EnvironmentMissingError as error:
            return Verdict("fail", error.message, error.advice)
        filters = [each for each in client.info().get("SecurityOptions") or () if "seccomp" in each]
    return judge_trials(plain, probed, safe=safe, filtered=bool(filters))


def judge_trials(plain: Trial, probed: Trial, *, safe: bool, filtered: bool) -> Verdict:
    """Judge a run without and one with a return probe.

    Args:
        plain: The one without.
        probed: The one with.
        safe: What the daemon takes the kernel for, and acts by.
        filtered: Whether the engine has a seccomp filter.
    """
    under = "under the engine's seccomp filter" if filtered else "(the engine has no seccomp filter)"
    if plain.exit_code != 0:
        return Verdict(
            "fail", f"a container does not even run without a probe: {plain.ended}", "see `docker info` and its log"
        )
    if probed.exit_code != 0:
        told = f"a container's process at a return probe {under}: {probed.ended}"
        if safe:
            return Verdict("fail", told, "run the daemon with `--probes physical`, and please report this kernel")
        return Verdict(
            "warn",
            f"{told}. So the daemon uses no return probes: what programs ask of CUDA is not witnessed, what the driver "
            "gives them is",
            "use Linux 6.14 or later",
        )
    if probed.hits != _CALLS:
        return Verdict(
            "warn",
            f"the probe saw {probed.hits} of {_CALLS} calls in a container: the witness may miss some",
            "please report this kernel",
        )
    return Verdict("ok", f"a container's process came through all {_CALLS} {under}")


def _run(client: Any, program: Path, function: Function | None, machine: Machine) -> Trial:
    """Run the program once in a container of an empty image; nothing of it stays."""
    import docker.errors
    import requests.exceptions

    tag = uuid.uuid4().hex[:12]  # two doctors at a time do not take each other's image away
    image = f"{_REPOSITORY}:{tag}"
    container = None
    try:
        client.api.import_image_from_data(_empty_archive(), repository=_REPOSITORY, tag=tag)
        container = client.containers.create(
            image,
            [_IN_CONTAINER],
            volumes={str(program.resolve()): {"bind": _IN_CONTAINER, "mode": "ro"}},
            network_mode="none",
        )
        if function is None:
            return Trial(_exit_code(container), 0)
        with PerfProbe(program.resolve(), function.offset, at_return=True, root=machine.root) as probe:
            return Trial(_exit_code(container), probe.hits)
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EnvironmentMissingError(
            f"the trial in a container could not be made: {error}", next_step="see `docker info` and the engine's log"
        ) from error
    finally:
        if container is not None:
            container.remove(force=True)
        if client.images.list(image):
            client.images.remove(image, force=True)


def _exit_code(container: Any) -> int:
    container.start()
    return int(container.wait(timeout=_RUN_S)["StatusCode"])


def _empty_archive() -> bytes:
    """Return an image's file system: one empty folder, because some engines refuse one with nothing in it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as image:
        folder = tarfile.TarInfo("tmp")
        folder.type = tarfile.DIRTYPE
        folder.mode = 0o755
        image.addfile(folder)
    return archive.getvalue()
