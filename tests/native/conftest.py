# SPDX-License-Identifier: Apache-2.0
"""The wrapper, built once; for each test a daemon, and programs that end with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests
from fake_daemon import FakeDaemon
from wrapper_process import Build, Program


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("wrapper"))


@pytest.fixture
def daemon(build: Build, tmp_path: Path) -> Iterator[FakeDaemon]:
    running = FakeDaemon(build.abi, tmp_path / "client.sock").start()
    yield running
    running.die()


@pytest.fixture
def start(build: Build, daemon: FakeDaemon) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start_program(binary: str = "program", **settings: object) -> Program:
        programs.append(Program(build, daemon.path, binary, **settings))
        return programs[-1]

    yield start_program
    for program in programs:
        program.process.kill()
        program.process.communicate()
