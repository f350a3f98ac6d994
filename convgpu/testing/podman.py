# SPDX-License-Identifier: Apache-2.0
"""Podman with folders of its own, and the service through which it speaks as Docker does."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convgpu.testing.stage import StageError, pack_root, wait_until

IMAGE = "localhost/convgpu-podman-test:latest"
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
"""Limits of the open files and processes that need no right to raise them."""


class Podman:
    """A Podman of its own; call it with the words of its command line.

    Raises:
        StageError: Podman does not work here.
    """

    def __init__(self) -> None:
        # In a short place: Podman takes no path of more than 50 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="cvg-"))
        own = ("--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run", "--events-backend", "file")
        self._words = ("podman", *own, "--cgroup-manager", "cgroupfs", "--runtime", "runc")
        loaded = self("import", "-", IMAGE, stdin=pack_root())
        if loaded.returncode:
            self.remove()
            raise StageError(f"podman does not work here: {loaded.stderr.strip()}")

    def __call__(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run a command."""
        done = subprocess.run([*self._words, *words], input=stdin, capture_output=True, check=False)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, *options: str, program: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        """Run a program in a container that sees the host's /usr."""
        return self("run", "--network", "none", *_LIMITS, "-v", "/usr:/usr:ro", *options, IMAGE, *program)

    @contextmanager
    def service(self) -> Iterator[str]:
        """Have it answer as Docker would; yields the value for DOCKER_HOST."""
        socket = self.folder / "podman.sock"
        with subprocess.Popen(
            [*self._words, "system", "service", "--time", "0", f"unix://{socket}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_until("podman answers", socket.exists)
                yield f"unix://{socket}"
            finally:
                process.terminate()

    def remove(self) -> None:
        """Remove its containers and folders; its mounts may take a moment to go."""
        self("rm", "--all", "--force", "--time", "0")
        subprocess.run(["umount", "--lazy", f"{self.folder}/root/overlay"], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
