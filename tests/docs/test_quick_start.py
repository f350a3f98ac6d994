# SPDX-License-Identifier: Apache-2.0
"""The quick start, command by command, as a reader would type it: it runs, and prints what the page says.

A comment above a block, which readers do not see, says how it is run: `second terminal`: it goes on in the background;
`once`: it changes something, so it is not repeated until it prints what the page says, as listings are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pages
import pytest

from convgpu.paths import DEFAULT_LOG_DIR
from convgpu.sources.simgpu import library_dir
from convgpu.testing.stage import make_image, wait_until

PAGE = pages.page("docs/quick-start.md")
IMAGE = "ubuntu:24.04"
NAMES = ("first", "second", "greedy")
SHOWS_WITHIN_S = 15.0
SECOND_TERMINAL, ONCE = "second terminal", "once"
VARIABLE = (  # what no two runs have in common
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "ID"),
    (re.compile(r"\bGPU-[0-9a-f-]{36}\b"), "UUID"),
    (re.compile(r"\bpid \d+|\[\d+\]"), "pid N"),
    (re.compile(r"\b\d\d-\d\d[ T]\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? ?(ns|us|ms|s|min)\b"), "DURATION"),
    (re.compile(r"^\d{3,} (?=name=)"), "MS "),
    (re.compile(r"\btook_ms=[\d.]+"), "took_ms=N"),
    (re.compile(r"\b\d+ records\b"), "N records"),
)


def plain(text: str) -> list[str]:
    """Return a text's lines without what differs from run to run, and with single spaces."""
    found = []
    for line in text.splitlines():
        words = " ".join(line.split())
        for pattern, name in VARIABLE:
            words = pattern.sub(name, words)
        found += [words] if words else []
    return found


def lacking(expected: str, shown: str) -> list[str]:
    """Return the lines of the page that were not shown, in their order."""
    rest = iter(plain(shown))
    return [line for line in plain(expected) if line not in rest]


class Terminal:
    """A shell that keeps its variables from block to block."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=pages.ROOT, env=environment, start_new_session=True,
        )  # fmt: skip

    @property
    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        return self._shell.stdin, self._shell.stdout

    def run(self, block: str) -> tuple[int, str]:
        """Run a block; return the status of the last command that failed, and what all of them printed."""
        to_shell, from_shell = self._pipes
        to_shell.write(
            f"status=0\ntrap 'status=$?' ERR\n{{\n{block}\n}} </dev/null\ntrap - ERR\necho \"--end $status\"\n"
        )
        to_shell.flush()
        printed = ""
        for line in from_shell:
            text, end, status = line.partition("--end ")
            printed += text
            if end:
                return int(status), printed
        raise AssertionError(f"the shell ended in: {block}\n{printed}")

    def start(self, block: str) -> None:
        """Run a block that goes on."""
        to_shell, _ = self._pipes
        to_shell.write(block)
        to_shell.close()

    def interrupt(self) -> str:
        """Press Ctrl-C; return what was printed until the end."""
        _, from_shell = self._pipes
        os.killpg(self._shell.pid, signal.SIGINT)
        printed = from_shell.read()
        self.close()
        return printed

    def close(self) -> None:
        """End it."""
        for pipe in self._pipes:
            pipe.close()
        self._shell.wait(timeout=30)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine of the reader's own, as far as ConvGPU's folders go; `sudo` is at hand."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "sudo").chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONVGPU_HOME": str(Path(sys.prefix).parent),
        "CONVGPU_CONFIG": os.devnull,
        "CONVGPU_RUN_DIR": "/run/convgpu-quick-start",
        "CONVGPU_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def log_folder() -> Iterator[None]:
    """The log where `convgpu audit` looks by itself; one that is there is put aside meanwhile."""
    aside = DEFAULT_LOG_DIR.with_name(f"{DEFAULT_LOG_DIR.name}.before-quick-start")
    if DEFAULT_LOG_DIR.exists():
        DEFAULT_LOG_DIR.rename(aside)
    yield
    shutil.rmtree(DEFAULT_LOG_DIR, ignore_errors=True)
    if aside.exists():
        aside.rename(DEFAULT_LOG_DIR)


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def image() -> Iterator[None]:
    """Where the page's image cannot be pulled, one of its name: the C library, and nothing else."""
    if docker("image", "inspect", IMAGE).returncode == 0:
        yield
        return
    story = str(library_dir() / "bin" / "story")
    listed = subprocess.run(["ldd", story], capture_output=True, text=True, check=True).stdout
    wanted = [Path(path) for path in re.findall(r"/\S+/(?:libc|libm|libdl|libpthread|librt|ld-linux)\S*", listed)]
    files = {
        str(Path("usr", *(part for part in path.parts[1:] if part != "usr"))): path.read_bytes() for path in wanted
    }
    make_image(IMAGE, files)
    yield
    docker("image", "rm", "--force", IMAGE)


@pytest.fixture
def no_containers() -> Iterator[None]:
    taken = [name for name in NAMES if docker("inspect", name).returncode == 0]
    assert not taken, f"containers of these names are there already: {taken}"
    yield
    docker("rm", "--force", *NAMES)
    shutil.rmtree("/run/convgpu-quick-start", ignore_errors=True)


def wait_for_witness(terminal: Terminal) -> None:
    def running() -> bool:
        status, shown = terminal.run("convgpu top --once --json 2>/dev/null")
        return status == 0 and json.loads(shown)["witness"]["running"]

    wait_until("the daemon answers, and its witness is there", running)


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.fuse
@pytest.mark.bpf
@pytest.mark.timeout(300)
def test_every_command_runs_and_shows_what_the_page_says(
    environment: dict[str, str], image: None, no_containers: None, log_folder: None
) -> None:
    terminal, second = Terminal(environment), None
    try:
        for block, following in zip(PAGE.blocks, [*PAGE.blocks[1:], None], strict=True):
            if block.language == "text":
                continue
            assert block.language == "sh", f"line {block.line}: a block that nobody checks"
            if SECOND_TERMINAL in block.notes:
                second = Terminal(environment)
                second.start(block.text)
                wait_for_witness(terminal)
                continue
            expected = following.text if following is not None and following.language == "text" else ""
            deadline = time.monotonic() + SHOWS_WITHIN_S
            while True:
                status, printed = terminal.run(block.text)
                missing = lacking(expected, printed)
                if not missing or ONCE in block.notes or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            print(f"--- line {block.line}\n{block.text}{printed}")
            assert status == 0, f"line {block.line}: {block.text}{printed}"
            assert not missing, f"line {block.line}: not shown: {missing}; but:\n{printed}"
    finally:
        docker("rm", "--force", *NAMES)
        if second is not None:
            print(second.interrupt())
        terminal.run("convgpu sim down")
        terminal.close()


def test_what_the_page_says_is_compared() -> None:
    assert lacking("a  1.5GiB\nb pid 12\n", "x\na 1.5GiB\nb pid 99\n") == []
    assert lacking("a  1.5GiB\n", "a 1.6GiB\n") == ["a 1.5GiB"]
    assert lacking("b\na\n", "a\nb\n") == ["a"]


def test_the_page_leaves_nothing_unchecked() -> None:
    commands = [block for block in PAGE.blocks if block.language == "sh"]
    listings = [block for block in PAGE.blocks if block.language == "text"]
    assert len(commands) + len(listings) == len(PAGE.blocks)
    assert len(listings) >= 10
    assert sum(SECOND_TERMINAL in block.notes for block in commands) == 1
