# SPDX-License-Identifier: Apache-2.0
"""Builds the wrapper and the programs of its tests, and talks to such a program."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from fake_daemon import Abi, FakeDaemon

MIB = 1 << 20
CONTEXT_BYTES = 3 * 4 * MIB
"""What a context of wrapper_fake_libcuda.c takes."""
OUT_OF_MEMORY = "2"
AGAIN, FORCE, NOWAIT = 4, 2, 1
API_MEM_ALLOC = 4
"""Position of cuMemAlloc_v2 in symbols.def."""

SOURCES = Path(__file__).parent
ROOT = SOURCES.parents[1]


class Build:
    """The wrapper and the programs of these tests, compiled once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(["cmake", "-S", ROOT / "wrapper", "-B", folder / "cmake"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", folder / "cmake"], check=True, stdout=subprocess.DEVNULL)
        self.wrapper = folder / "cmake" / "libconvgpu.so"
        self.abi = Abi(ROOT / "wrapper" / "include", folder / "cmake" / "libconvgpu-page.so")
        self.rm = folder / "libfakerm.so"
        versions = folder / "versions"
        versions.write_text("FAKE_1 { global: cu*; };\n")
        probes = [folder / f"libprobe{number}.so" for number in (1, 2)]
        shared = ["-shared", "-fPIC"]
        self._cc(*shared, SOURCES / "wrapper_fake_rm.c", "-o", self.rm)
        self._cc(
            *shared,
            SOURCES / "wrapper_fake_libcuda.c",
            "-Wl,-soname,libcuda.so.1",
            "-Wl,-Bsymbolic",
            f"-Wl,--version-script={versions}",
            "-o",
            folder / "libcuda.so.1",
        )
        self._cc(
            *shared,
            SOURCES / "wrapper_fake_nvml.c",
            "-Wl,-soname,libnvidia-ml.so.1",
            "-Wl,-Bsymbolic",
            "-o",
            folder / "libnvidia-ml.so.1",
        )
        for number, probe in enumerate(probes, start=1):
            self._cc(*shared, f"-DPROBE_NUMBER={number}", SOURCES / "wrapper_probe.c", "-o", probe)
        program = SOURCES / "wrapper_program.c"
        rpath = f"-Wl,-rpath,{folder}"
        self._cc(*shared, SOURCES / "wrapper_plugin.c", folder / "libcuda.so.1", rpath, "-o", folder / "libplugin.so")
        self._cc(program, "-Wl,--no-as-needed", *probes, rpath, "-pthread", "-ldl", "-o", folder / "program")
        self._cc("-DLINKED", program, folder / "libcuda.so.1", rpath, "-pthread", "-ldl", "-o", folder / "linked")

    def _cc(self, *arguments: object) -> None:
        flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, *map(str, arguments)], check=True)


def environment(build: Build, socket: Path | None, **settings: object) -> dict[str, str]:
    """The variables of a program under the wrapper.

    Args:
        build: The wrapper, and the driver and resource manager of these tests.
        socket: Where the daemon listens; None: without the wrapper.
        settings: More variables; DRIVER names the folder of another libcuda, with a device below it.
    """
    driver = settings.pop("DRIVER", None)
    preload = [build.wrapper] if socket is not None else []
    return {
        "PATH": os.environ["PATH"],
        "LD_PRELOAD": ":".join(map(str, preload if driver is not None else [*preload, build.rm])),
        "LD_LIBRARY_PATH": str(build.folder if driver is None else driver),
        "CONVGPU_SOCKET": str(socket),
        **{name: str(value) for name, value in settings.items()},
    }


class Program:
    """A process of wrapper_program.c and the conversation with it."""

    def __init__(self, build: Build, socket: Path | None, binary: str | Path = "program", **settings: object) -> None:
        """Start it, `binary` or another program, in the environment of the settings.

        Args:
            build: The programs.
            socket: As in `environment`.
            binary: Which program.
            settings: As in `environment`; THROUGH is a command that runs it as its last words.
        """
        through: Any = settings.pop("THROUGH", ())
        self.process = subprocess.Popen(
            [*through, build.folder / binary],
            env=environment(build, socket, **settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._count = 0
        self._lines: dict[str, str] = {}
        self._buffer = b""

    def begin(self, verb: str, *arguments: object) -> str:
        """Send a command; the result is fetched with `result`."""
        self._count += 1
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join([str(self._count), verb, *map(str, arguments)]).encode() + b"\n")
        self.process.stdin.flush()
        return str(self._count)

    def result(self, key: str, timeout_s: float = 20) -> list[str]:
        """Wait for the answer to a command."""
        deadline_s = time.monotonic() + timeout_s
        while key not in self._lines:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"no answer to command {key}"
            assert self._read(left_s), f"ended with {self.process.wait()}: {self.process.stderr.read()!r}"
        return self._lines.pop(key).split()

    def _read(self, timeout_s: float) -> bool:
        descriptor = self.process.stdout.fileno()
        if not select.select([descriptor], [], [], timeout_s)[0]:
            return True
        data = os.read(descriptor, 65536)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            key, _, text = line.decode().partition(" ")
            self._lines[key] = text
        return bool(data)

    def answered(self, key: str) -> bool:
        """Whether the answer has arrived; looks for a moment."""
        self._read(0.05)
        return key in self._lines

    def do(self, verb: str, *arguments: object) -> list[str]:
        """Send a command and wait for its result."""
        return self.result(self.begin(verb, *arguments))

    def ready(self, mode: str = "dlsym", context: str = "retain", device: int = 0) -> Program:
        """Resolve, initialise and make a context."""
        assert self.do("resolve", mode)[0] == "0"
        assert self.do("init", 0) == ["0"]
        assert self.do(context, device) == ["0"]
        return self

    def alloc(self, size_bytes: int) -> int:
        """Allocate, successfully."""
        code, pointer = self.do("alloc", size_bytes)
        assert code == "0"
        return int(pointer)

    def end(self) -> str:
        """Let it end; returns what it wrote to stderr."""
        if self.process.poll() is None and not self.process.stdin.closed:
            self.begin("quit")
        _, errors = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        return errors.decode()


def settled(daemon: FakeDaemon, number: int = 0, device: int = 0) -> bool:
    account = daemon.account(number, device)
    return account.balanced and account.reserved == 0


CLIENT, DEVICE, MEMORY, VIRTUAL = 0x41, 0x80, 0x40, 0x80000
"""Classes of the resource manager, and the flag of an address range."""


def raw_alloc(
    program: Program, form: str, client: str, parent: str, class_id: int, size_bytes: int = 0, flags: int = 0
) -> list[str]:
    """Answer: result, status, handle, size, errno."""
    return program.do("raw", "alloc", form, client, parent, f"{class_id:x}", size_bytes, f"{flags:x}")


def raw_tree(program: Program, form: str) -> tuple[str, str]:
    client = raw_alloc(program, form, "0", "0", CLIENT)[2]
    return client, raw_alloc(program, form, client, client, DEVICE)[2]
