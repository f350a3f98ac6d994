# SPDX-License-Identifier: Apache-2.0
"""Addresses of real processes become words: functions of their files, and what is left where a file does not say."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convgpu.sources.elf import ElfError
from convgpu.sources.stacks import Stacks
from convgpu.sources.symbols import FunctionTable

pytestmark = pytest.mark.root  # /proc/PID/map_files is root's


def address_of(function: str) -> int:
    """Where this process, and every child that has not called exec, has a function of the C library."""
    return ctypes.cast(getattr(ctypes.CDLL(None), function), ctypes.c_void_p).value


def mapped(pid: int, path: str) -> tuple[int, int]:
    """First address and file offset of what a process may execute of a file, once its loader has mapped it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if "x" in fields[1] and (fields[5] if len(fields) == 6 else "").endswith(path):
                return int(fields[0].partition("-")[0], 16), int(fields[2], 16)
    raise AssertionError(f"{pid} has not mapped {path}")


@pytest.fixture
def stacks():
    stacks = Stacks()
    yield stacks
    stacks.close()


@pytest.fixture
def sleeper(tmp_path):
    """A process of a stripped program; returns it and the program's path."""
    started = []

    def start(name="stripped"):
        program = tmp_path / name
        shutil.copy("/usr/bin/sleep", program)
        process = subprocess.Popen([str(program), "60"])
        started.append(process)
        mapped(process.pid, str(program))
        return process, program

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_return_address_is_a_function_and_how_far_into_it(stacks):
    pid = os.getpid()
    address = address_of("getenv") + 9
    stacks.look_at([(pid, (address,))])
    (frame,) = stacks.frames(pid, (address,))
    assert frame.startswith("getenv+0x9 (libc")


def test_what_a_function_ends_with_is_not_taken_for_the_next_one(stacks):
    """A call may be the last instruction: it returns to where the next function begins."""
    pid = os.getpid()
    first = address_of("getenv")
    stacks.look_at([(pid, (first,))])
    (frame,) = stacks.frames(pid, (first,))
    assert not frame.startswith("getenv")


def test_a_file_without_that_symbol_is_told_by_file_and_offset(stacks, sleeper):
    process, program = sleeper()
    begin, offset = mapped(process.pid, str(program))
    stacks.look_at([(process.pid, (begin + 0x321,))])
    assert stacks.frames(process.pid, (begin + 0x321,)) == (f"stripped+{offset + 0x321:#x}",)


def test_an_address_in_no_file_stays_an_address(stacks):
    pid = os.getpid()
    begin, _ = mapped(pid, "[vdso]")
    stacks.look_at([(pid, (begin + 1,))])
    assert stacks.frames(pid, (begin + 1,)) == (f"{begin + 1:#x} ([vdso])",)


def test_a_stack_ends_where_a_missing_frame_pointer_leads_to_no_code(stacks):
    pid = os.getpid()
    begin, _ = mapped(pid, "[vdso]")
    addresses = (begin + 1, begin + 2, 0x35FC, begin + 3)
    stacks.look_at([(pid, addresses)])
    assert stacks.frames(pid, addresses) == (f"{begin + 1:#x} ([vdso])", f"{begin + 2:#x} ([vdso])")
    assert stacks.frames(pid, (0x35FC, begin + 1)) == ("0x35fc",)
    assert stacks.frames(pid, ()) == ()


def test_a_process_that_ended_after_it_was_looked_at_has_its_names(stacks, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here, there = (mapped(pid, "libc.so.6")[0] for pid in (os.getpid(), child.pid))
    address = address_of("getenv") - here + there + 4
    stacks.look_at([(child.pid, (address,))])
    child.communicate()
    assert stacks.frames(child.pid, (address,))[0].startswith("getenv+0x4 (libc")
    stacks.look_at([(child.pid, (address,))])  # a later event of the same process
    assert stacks.frames(child.pid, (address,))[0].startswith("getenv+0x4 (libc")


def test_a_process_that_ended_before_it_was_looked_at_is_said_to_be_gone(stacks):
    gone = subprocess.Popen(["true"])
    gone.wait()
    stacks.look_at([(gone.pid, (0x1000,))])
    assert stacks.frames(gone.pid, (0x1000, 0x2000)) == ("0x1000 (process gone)", "0x2000 (process gone)")


def test_a_file_that_was_replaced_since_is_the_one_that_is_mapped(stacks, sleeper):
    process, program = sleeper("moved")
    begin, offset = mapped(process.pid, str(program))
    program.unlink()
    program.write_text("not a program")
    stacks.look_at([(process.pid, (begin + 0x321,))])
    assert stacks.frames(process.pid, (begin + 0x321,)) == (f"moved+{offset + 0x321:#x}",)


def test_files_are_let_go_of(sleeper):
    stacks = Stacks()
    process, program = sleeper()
    begin, _ = mapped(process.pid, str(program))
    before = len(list(Path("/proc/self/fd").iterdir()))
    stacks.look_at([(process.pid, (begin + 1, begin + 2, begin + 3))])
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    stacks.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_files_are_bounded_and_one_that_is_read_is_not_closed_below_its_reader(stacks, sleeper, monkeypatch):
    monkeypatch.setattr("convgpu.sources.stacks._FILES_KEPT", 1)
    process, program = sleeper()
    begin, _ = mapped(process.pid, str(program))
    libc, _ = mapped(process.pid, "libc.so.6")
    before = len(list(Path("/proc/self/fd").iterdir()))
    stacks.look_at([(process.pid, (begin + 1,))])
    (held,) = stacks._files.values()
    stacks.look_at([(process.pid, (libc + 1,))])
    assert os.fstat(held.descriptor).st_ino == program.stat().st_ino
    del held
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    assert stacks.frames(process.pid, (begin + 1,))[0].startswith("stripped+0x")


def test_a_damaged_file_is_no_reason_to_fail(tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(Path("/usr/bin/sleep").read_bytes()[:5000])
    with damaged.open("rb") as file, pytest.raises(ElfError):
        FunctionTable(file.fileno())
