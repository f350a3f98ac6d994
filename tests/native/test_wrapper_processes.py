# SPDX-License-Identifier: Apache-2.0
"""Processes of every kind: they fork, replace themselves, load libraries oddly, change users, and come in crowds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_gpu import Gpu
from wrapper_process import (
    CONTEXT_BYTES,
    MEMORY,
    MIB,
    OUT_OF_MEMORY,
    Build,
    Program,
    environment,
    raw_alloc,
    raw_tree,
    settled,
)

RTLD_NOW, RTLD_DEEPBIND = os.RTLD_NOW, os.RTLD_DEEPBIND


# ---- Ways of loading ----


@pytest.mark.parametrize("flags", [RTLD_NOW, RTLD_NOW | RTLD_DEEPBIND])
def test_a_plug_in_is_hooked_even_if_it_prefers_its_own_libraries(start: Any, daemon: FakeDaemon, flags: int) -> None:
    daemon.limit_bytes = CONTEXT_BYTES + 16 * MIB
    program = start().ready()
    assert program.do("plugin", flags, 8 * MIB) == ["0"]
    assert daemon.account().used == CONTEXT_BYTES + 8 * MIB
    assert program.do("plugin", flags, 16 * MIB) == [OUT_OF_MEMORY]
    assert daemon.account().refusals == 0  # the hook was asked, not the boundary alone


def test_without_the_wrapper_the_plug_in_goes_to_libcuda(build: Build) -> None:
    program = Program(build, None).ready()
    assert program.do("plugin", RTLD_NOW | RTLD_DEEPBIND, 8 * MIB) == ["0"]
    program.end()


def test_a_library_finds_its_neighbours_as_without_the_wrapper(
    build: Build, daemon: FakeDaemon, tmp_path: Path
) -> None:
    inner, outer = tmp_path / "inner.c", tmp_path / "outer.c"
    inner.write_text("int inner;\n")
    outer.write_text("""
#include <dlfcn.h>
#include <stddef.h>
int outer(void) { void *volatile found = dlopen("libinner.so", RTLD_NOW); return found != NULL; }
""")
    for source, options in ((inner, []), (outer, ["-Wl,-rpath,$ORIGIN", "-Wl,--enable-new-dtags", "-ldl"])):
        library = tmp_path / f"lib{source.stem}.so"
        subprocess.run(["cc", "-shared", "-fPIC", source, *options, "-o", library], check=True)
    code = f"import ctypes; print(ctypes.CDLL({str(tmp_path / 'libouter.so')!r}).outer())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(build, daemon.path), check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"  # by the run path of the library that asks, not by this one's


def test_closing_libcuda_leaves_the_hooks_usable(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    assert program.do("close") == ["0"]
    program.alloc(8 * MIB)
    assert daemon.account().used == CONTEXT_BYTES + 8 * MIB


def test_python_with_ctypes(build: Build, daemon: FakeDaemon) -> None:
    code = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, pointer = ctypes.c_void_p(), ctypes.c_uint64()
print(cuda.cuInit(0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), cuda.cuCtxSetCurrent(context),
      cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(8 << 20)),
      cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(8 << 30)), cuda.cuMemFree_v2(pointer))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(build, daemon.path), check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "0", "0", "0", "2", "0"]
    assert daemon.account().peak == CONTEXT_BYTES + 8 * MIB


def test_a_program_of_cpp(build: Build, daemon: FakeDaemon, tmp_path: Path) -> None:
    source, binary = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text("""
#include <cstddef>
#include <cstdio>
#include <stdexcept>
extern "C" int cuInit(unsigned), cuDevicePrimaryCtxRetain(void **, int), cuCtxSetCurrent(void *);
extern "C" int cuMemAlloc_v2(unsigned long long *, size_t);
static void check(int result) { if (result != 0) throw std::runtime_error("refused"); }
int main() {
    void *context = nullptr;
    unsigned long long pointer = 0;
    check(cuInit(0)); check(cuDevicePrimaryCtxRetain(&context, 0)); check(cuCtxSetCurrent(context));
    try { check(cuMemAlloc_v2(&pointer, size_t(8) << 30)); }
    catch (const std::runtime_error &error) { puts(error.what()); }
    check(cuMemAlloc_v2(&pointer, 8 << 20));
    puts("done");
}
""")
    compiler = ["c++", "-O1", source, build.folder / "libcuda.so.1", f"-Wl,-rpath,{build.folder}", "-o", binary]
    subprocess.run(compiler, check=True)
    done = subprocess.run([binary], env=environment(build, daemon.path), check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["refused", "done"]
    assert daemon.account().peak == CONTEXT_BYTES + 8 * MIB


@pytest.mark.parametrize(("version", "flags"), [(11020, 0), (12000, 2)])
def test_async_calls_found_by_version_and_stream_kind(start: Any, daemon: FakeDaemon, version: int, flags: int) -> None:
    program = start().ready()
    name = "cuMemAllocAsync"
    hook = int(program.do("call", "cuGetProcAddress", f"'{name}", "@", version, flags)[1])
    real = int(program.do("call", "cuGetProcAddress_v2", f"'{name}", "@", version, flags, 0)[1])
    assert hook == real != 0
    assert program.do("where", hook)[0] == "libconvgpu.so"


# ---- Threads ----


def test_memory_may_be_freed_by_another_thread(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    pointer = int(program.result(program.begin("&alloc", 8 * MIB))[1])
    managed = program.result(program.begin("&call", "cuMemAllocManaged", "@", 8 * MIB, 1))[1]
    assert program.result(program.begin("&free", pointer)) == ["0"]
    assert program.result(program.begin("&free", managed)) == ["0"]
    assert (daemon.account().used, daemon.account().managed) == (CONTEXT_BYTES, 0)
    assert settled(daemon)


# ---- Forks and their kin ----


def test_a_vfork_leaves_the_parent_as_it_was(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    pointer = program.alloc(8 * MIB)
    assert program.do("vfork") == ["7"]
    assert program.do("free", pointer) == ["0"]
    program.alloc(16 * MIB)
    assert len(daemon.pages) == 1
    assert daemon.account().used == CONTEXT_BYTES + 16 * MIB


def test_a_new_program_in_the_same_process_joins_anew(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    program.do("exec")
    daemon.until(lambda: daemon.connections() == 0)  # every descriptor closed with the program
    program.ready().alloc(8 * MIB)
    assert len(daemon.pages) == 2
    assert daemon.page(0).pid == daemon.page(1).pid
    assert daemon.account(1).used == CONTEXT_BYTES + 8 * MIB


def test_a_child_that_libc_never_heard_of_keeps_off_its_parent_s_connections(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    assert len(daemon.asked("HELLO")) == 1
    assert program.do("clone", 64 * MIB) == ["0"]
    assert len(daemon.asked("HELLO")) == 2  # the answer to its request cannot be read by the parent
    program.alloc(256 * MIB)
    assert len(daemon.asked("HELLO")) == 2


def test_managed_memory_of_the_parent_is_not_the_child_s(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    pointer = program.do("call", "cuMemAllocManaged", "@", 8 * MIB, 1)[1]
    program.begin("fork")
    program.result("child")
    program.do("init", 0)
    client, device = raw_tree(program, "long")
    raw_alloc(program, "long", client, device, MEMORY, 2 * MIB)
    program.do("free", pointer)  # a number that means something in the parent only
    assert daemon.account(1).managed == 0
    assert settled(daemon, 1)
    program.begin("quit")
    program.result("reaped")
    assert daemon.account(0).managed == 8 * MIB


# ---- Ends ----


@pytest.mark.parametrize("phase", ["joining", "waiting", "holding", "waiting for the daemon"])
def test_killed_in_every_phase_of_a_call(start: Any, daemon: FakeDaemon, phase: str) -> None:
    program = start()
    if phase == "joining":
        daemon.silent = True
        program.do("resolve", "dlsym")
        program.begin("&init", 0)
        daemon.until(lambda: len(daemon.asked("HELLO")) == 1)
    else:
        program.ready()
        daemon.others_bytes = daemon.capacity_bytes - CONTEXT_BYTES
        if phase == "waiting for the daemon":
            daemon.die()
        if phase == "holding":
            daemon.others_bytes -= 8 * MIB
            program.alloc(8 * MIB)
        else:
            program.begin("&alloc", 8 * MIB)
        if phase == "waiting":
            daemon.until(lambda: len(daemon.waiting()) == 1)
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
    if phase == "waiting for the daemon":
        daemon.start()
    daemon.until(lambda: daemon.connections() == 0)
    assert daemon.waiting() == []
    for page in daemon.pages.values():
        account = page.account()
        assert account.granted >= account.credit + account.used + account.reserved + account.managed


# ---- Many processes ----


def test_two_processes_race_for_the_last_granule(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 2 * CONTEXT_BYTES + 2 * MIB
    programs = [start().ready(), start().ready()]
    for _ in range(20):
        asked = [program.begin("&alloc", 2 * MIB) for program in programs]
        answers = [program.result(key) for program, key in zip(programs, asked, strict=True)]
        assert sorted(answer[0] for answer in answers) == ["0", OUT_OF_MEMORY]
        assert sum(page.account().used for page in daemon.pages.values()) == daemon.limit_bytes
        for program, answer in zip(programs, answers, strict=True):
            if answer[0] == "0":
                assert program.do("free", answer[1]) == ["0"]


def test_300_processes_start_at_once(build: Build, daemon: FakeDaemon) -> None:
    script = b"1 resolve dlsym\n2 init 0\n3 raw alloc long 0 0 41 0 0\n4 quit\n"
    started_s = time.monotonic()
    crowd = [
        subprocess.Popen(
            [build.folder / "program"],
            env=environment(build, daemon.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(300)
    ]
    for member in crowd:
        assert member.stdin is not None
        member.stdin.write(script)
        member.stdin.flush()
    ends = [member.communicate(timeout=60) for member in crowd]
    assert all(b"2 0\n" in out and errors == b"" for out, errors in ends)
    assert len(daemon.pages) == 300
    assert time.monotonic() - started_s < 60


# ---- Users ----


def root_only() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")


def let_in(*files: Path) -> None:
    """Let any user come to these files."""
    for folder in {folder for file in files for folder in file.parents}:
        if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)


def test_another_user_is_guarded_as_well(build: Build, daemon: FakeDaemon) -> None:
    root_only()
    daemon.path.chmod(0o666)
    let_in(build.wrapper, daemon.path)
    build.folder.chmod(0o755)
    script = "1 resolve dlsym\n2 init 0\n3 retain 0\n4 alloc 8388608\n5 quit\n"
    done = subprocess.run(
        [build.folder / "program"],
        env=environment(build, daemon.path),
        input=script,
        check=True,
        capture_output=True,
        text=True,
        user=65534,
    )
    assert done.stdout.splitlines()[3].startswith("4 0 ")
    assert daemon.account().peak == CONTEXT_BYTES + 8 * MIB


@pytest.mark.parametrize("gpu", [pytest.param("simulated", marks=[pytest.mark.fuse, pytest.mark.root])], indirect=True)
def test_a_file_system_that_cannot_be_written_and_no_privileges(
    start: Any, build: Build, gpu: Gpu, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """As `docker run --read-only --user 65534 --cap-drop ALL`: nothing is missing, and no exactness either."""
    script = (
        'mount -o remount,bind,ro "$(findmnt -no TARGET -T "$0")" && mount -o remount,bind,ro / && '
        '! touch "$0/file" 2>/dev/null && '
        'exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all --no-new-privs "$@"'
    )
    if any(shutil.which(command) is None for command in ("unshare", "setpriv", "findmnt")):
        pytest.skip("no unshare, setpriv or findmnt command")
    daemon.path.chmod(0o666)
    let_in(build.wrapper, daemon.path, gpu.folder / "nvidiactl")
    build.folder.chmod(0o755)
    through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, tmp_path]
    program = start(THROUGH=through, **gpu.settings).ready()
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    assert re.search(r"^Uid:\s+65534\s", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert not (tmp_path / "file").exists()
    program.alloc(8 * MIB)
    assert daemon.account().used == gpu.held_by(program.process.pid) > 8 * MIB
    descriptor = program.do("file", "open", gpu.folder / "nvidiactl")[0]
    program.do("file", "use", descriptor)
    before = daemon.account().used
    client, device = raw_tree(program, "long")
    raw_alloc(program, "long", client, device, MEMORY, 4 * MIB)
    assert daemon.account().used == before + 4 * MIB
    program.do("file", "close", descriptor)
    assert daemon.account().used == gpu.held_by(program.process.pid) == before
    assert settled(daemon)


def test_a_program_that_runs_as_another_user_than_its_caller_is_not_broken(build: Build, tmp_path: Path) -> None:
    root_only()
    binary = tmp_path / "setuid"
    source = tmp_path / "setuid.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("works"); return 0; }\n')
    subprocess.run(["cc", source, "-o", binary], check=True)
    binary.chmod(0o4755)
    let_in(binary)
    variables = {"LD_PRELOAD": str(build.wrapper), "CONVGPU_LOG": str(tmp_path / "log")}
    done = subprocess.run([binary], env=variables, check=True, capture_output=True, text=True, user=65534)
    assert done.stdout == "works\n"
    assert not (tmp_path / "log").exists()


def test_nothing_is_written_to_a_file_system(start: Any, daemon: FakeDaemon) -> None:
    program = start().ready()
    program.alloc(8 * MIB)
    links = [str(entry.readlink()) for entry in Path(f"/proc/{program.process.pid}/fd").iterdir()]
    assert all(link.startswith(("pipe:", "socket:", "/dev/null")) for link in links), links
