# SPDX-License-Identifier: Apache-2.0
"""One program in one container, native or wrapped, that is talked to line by line."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from convgpu.testing.stage import IMAGE, StageError, output_of, remove_containers

NATIVE: Final = "native"
WRAPPED: Final = "wrapped"
PREFIX: Final = "bench-"
_LABEL: Final = "convgpu-stage=1"


class Session:
    """A container whose program reads standard input and answers on standard output.

    Args:
        name: The container's name, without prefix.
        limit: What `--limit` is given; None: `docker run` without convgpu.
        docker: Docker's options that give it the GPU, and others.
        folder: What it sees as /stage.
        command: The program and its arguments.
        patience_s: How long one answer may take.
    """

    def __init__(
        self,
        name: str,
        limit: str | None,
        docker: list[str],
        folder: Path,
        command: list[str],
        patience_s: float = 120.0,
    ) -> None:
        self.name = PREFIX + name
        self._patience_s = patience_s
        remove_containers((self.name,))
        words = ["-i", "--name", self.name, "--label", _LABEL, "--network", "none"]
        words += ["-v", "/usr:/usr:ro", "-v", f"{folder}:/stage", *docker, IMAGE, *command]
        start = ["docker", "run"] if limit is None else ["convgpu", "run", "--limit", limit, "--"]
        self.command_line = [*start, *words]
        self._process = subprocess.Popen(
            self.command_line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> str:
        """Return the next line; one that begins with `error` ends the measurement."""
        line = self.read_any()
        if line.startswith("error"):
            raise StageError(f"{self.name}: {line}")
        return line

    def read_any(self) -> str:
        """Return the next line, whatever it says; no line in time and an ended program end the measurement."""
        assert self._process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._patience_s, give_up)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise StageError(f"{self.name} said nothing for {self._patience_s:.0f} s")
        if not line:
            raise StageError(f"{self.name} ended with status {self._process.wait()} before it had answered")
        return line.strip()

    def expect(self, word: str) -> None:
        """Read one line, which has to be this."""
        line = self.read()
        if line != word:
            raise StageError(f"{self.name} said '{line}' where '{word}' was expected")

    def tell(self, line: str = "") -> None:
        """Write one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, command: str) -> list[float]:
        """Give a command to `calls` and return its samples."""
        self.tell(command)
        return [float(word) for word in self.read().split()]

    def pid(self) -> int:
        """The host's pid of the program."""
        return int(output_of("docker", "inspect", "-f", "{{.State.Pid}}", self.name))

    def id(self) -> str:
        """The container's id."""
        return output_of("docker", "inspect", "-f", "{{.Id}}", self.name).strip()

    def close(self) -> None:
        """End the program by closing its input, then remove the container."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=20)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        remove_containers((self.name,))


@dataclass(frozen=True)
class Rig:
    """Makes sessions: the GPU's options for Docker, and the folder that containers see as /stage."""

    docker: list[str]
    folder: Path

    def native(self, program: str, *arguments: str, patience_s: float = 120.0, name: str = "") -> Session:
        """Start a program without convgpu."""
        command = [f"/stage/{program}", *arguments]
        return Session(name or f"{program}-{NATIVE}", None, self.docker, self.folder, command, patience_s)

    def wrapped(self, program: str, limit: str, *arguments: str, patience_s: float = 120.0, name: str = "") -> Session:
        """Start a program through `convgpu run`."""
        command = [f"/stage/{program}", *arguments]
        return Session(name or f"{program}-{WRAPPED}", limit, self.docker, self.folder, command, patience_s)

    @contextmanager
    def pair(self, program: str, limit: str) -> Iterator[dict[str, Session]]:
        """Have the same program native and wrapped, side by side and both ready."""
        with self.native(program) as native, self.wrapped(program, limit) as wrapped:
            native.expect("ready")
            wrapped.expect("ready")
            yield {NATIVE: native, WRAPPED: wrapped}
