# SPDX-License-Identifier: Apache-2.0
"""The checks of `convgpu doctor`, on folders that look like machines."""

from __future__ import annotations

import ast
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from convgpu.doctor import engine, examine, features, gpu, guard, kernel, trial, witness
from convgpu.doctor.finding import Check, Finding, Machine
from convgpu.doctor.report import report
from convgpu.native import native_dir
from convgpu.paths import RunPaths
from convgpu.sources.perf_probe import PerfProbe
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot

ALL_CAPABILITIES = "000001ffffffffff"


@pytest.fixture
def machine(tmp_path):
    """Make a machine of files: a name ending in a slash is a folder."""

    def make(files=None, **more):
        for name, content in {**(files or {}), **more}.items():
            path = tmp_path / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        return Machine(root=tmp_path, paths=RunPaths(tmp_path / "run/convgpu"))

    return make


def test_a_check_that_breaks_is_a_finding(machine):
    def broken(_):
        raise ZeroDivisionError("one over nothing")

    (finding,) = examine(RunPaths(), [Check("odd", broken)], machine())
    assert finding == Finding(
        name="odd",
        status="fail",
        detail="the check itself failed: ZeroDivisionError: one over nothing",
        fix="please report this",
    )


def test_every_verdict_that_is_not_well_says_what_to_do():
    verdicts = [
        call
        for file in Path(engine.__file__).parent.glob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Verdict"
        if isinstance(call.args[0], ast.Constant) and call.args[0].value in ("warn", "fail")
    ]
    assert len(verdicts) > 20
    assert [ast.unparse(call) for call in verdicts if len(call.args) < 3] == []


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ({"etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12"\n'}, "ok", "Debian GNU/Linux 12"),
        ({}, "ok", "Linux"),
        ({"proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2"}, "fail", "WSL2"),
        ({"dev/dxg": ""}, "fail", "WSL2"),
        ({"etc/nv_tegra_release": ""}, "fail", "Tegra"),
        ({"proc/device-tree/compatible": "nvidia,p3737\0nvidia,tegra234\0"}, "fail", "Tegra"),
    ],
)
def test_platform(machine, files, status, said):
    verdict = kernel.platform(machine(files))
    assert verdict.status == status
    assert said in verdict.detail


@pytest.mark.parametrize(
    ("uid", "capabilities", "status", "said"),
    [
        (0, ALL_CAPABILITIES, "ok", "root"),
        (1000, "0000000000000000", "warn", "not root"),
        (0, "00000000a80425fb", "fail", "CAP_SYS_ADMIN, CAP_SYS_PTRACE"),
    ],
    ids=["root", "user", "root in an ordinary container"],
)
def test_privileges(machine, uid, capabilities, status, said):
    text = f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{capabilities}\n"
    verdict = kernel.privileges(machine({"proc/self/status": text}))
    assert verdict.status == status
    assert said in verdict.detail


@pytest.mark.parametrize(
    ("release", "status"),
    [("6.1.0-42-amd64", "ok"), ("5.8.0", "ok"), ("5.4.0-150-generic", "fail"), ("6.12.1", "warn"), ("odd", "fail")],
)
def test_kernel_release(machine, monkeypatch, release, status):
    monkeypatch.setattr(kernel, "machine_name", lambda: "x86_64")
    assert kernel.release(machine({"proc/sys/kernel/osrelease": release + "\n"})).status == status


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ({"sys/fs/cgroup/cgroup.controllers": ""}, "ok", "v2"),
        ({"sys/fs/cgroup/unified/cgroup.controllers": "", "sys/fs/cgroup/memory/": ""}, "ok", "hybrid"),
        ({"sys/fs/cgroup/memory/": ""}, "warn", "v1 alone"),
        ({}, "fail", "no cgroups"),
    ],
)
def test_cgroups(machine, files, status, said):
    verdict = kernel.cgroups(machine(files))
    assert verdict.status == status
    assert said in verdict.detail


def test_tracefs(machine):
    assert witness.tracefs(machine()).status == "fail"
    assert witness.tracefs(machine({"sys/kernel/tracing/": ""})).status == "warn"
    assert witness.tracepoints(machine()).status == "skip"
    there = machine({"sys/kernel/tracing/events/": ""})
    assert witness.tracefs(there).detail == "mounted at /sys/kernel/tracing"


def test_tracepoints_are_opened(machine):
    events = "sys/kernel/debug/tracing/events"
    some = machine({f"{events}/syscalls/sys_enter_ioctl/id": "1", f"{events}/sched/sched_process_exit/id": "2"})
    verdict = witness.tracepoints(some)
    assert verdict.status == "fail"
    assert "syscalls/sys_exit_ioctl (No such file or directory)" in verdict.detail
    assert "sys_enter" not in verdict.detail
    assert witness.tracepoints(machine({f"{events}/syscalls/sys_exit_ioctl/id": "3"})).status == "ok"


def test_headers_of_nobody_and_of_another_kernel(machine, monkeypatch):
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    files = {"proc/sys/kernel/osrelease": "6.1.0-1-amd64\n"}
    assert witness.headers(machine(files)).status == "fail"
    files |= {f"lib/modules/6.1.0-1-amd64/build/include/linux/{name}": "" for name in ("kconfig.h", "types.h")}
    verdict = witness.headers(machine(files))
    assert (verdict.status, verdict.detail) == ("ok", "6.1.0-1-amd64, the running kernel's")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (None, "ok", "none"),
        ("[none] integrity confidentiality\n", "ok", "none"),
        ("none [integrity] confidentiality\n", "ok", "integrity"),
        ("none integrity [confidentiality]\n", "fail", "confidentiality"),
    ],
)
def test_lockdown(machine, text, status, said):
    verdict = features.lockdown(machine({} if text is None else {"sys/kernel/security/lockdown": text}))
    assert verdict.status == status
    assert said in verdict.detail
    assert (verdict.fix is not None) is (status == "fail")


@pytest.mark.parametrize(("kernel_bytes", "status"), [(4096, "ok"), (16384, "ok"), (65536, "ok"), (1024, "fail")])
def test_page_size(kernel_bytes, status):
    assert guard.judge_page_size(kernel_bytes, 4096).status == status


@pytest.mark.parametrize(
    ("plain", "probed", "safe", "status", "said"),
    [
        ((0, 0), (0, 7), True, "ok", "came through all 7"),
        ((0, 0), (0, 7), False, "ok", "came through all 7"),
        ((0, 0), (128 + 31, 0), False, "warn", "SIGSYS"),
        ((0, 0), (128 + 31, 0), True, "fail", "SIGSYS"),
        ((0, 0), (0, 3), True, "warn", "3 of 7"),
        ((127, 0), (127, 0), True, "fail", "without a probe: status 127"),
    ],
    ids=["well", "better than its version", "as its version says", "worse", "misses some", "no container"],
)
def test_a_trial_is_judged_by_how_it_ended_and_what_was_seen(plain, probed, safe, status, said):
    verdict = trial.judge_trials(trial.Trial(*plain), trial.Trial(*probed), safe=safe, filtered=True)
    assert verdict.status == status
    assert said in verdict.detail
    assert (verdict.fix is None) is (status == "ok")


def test_the_program_of_the_trial_does_what_the_check_counts_on():
    program = trial.trial_program(native_dir())
    assert subprocess.run([program], check=False).returncode == 0
    assert trial.trial_function(program).offset > 0


@pytest.mark.root
def test_the_kernel_s_features_are_really_tried(machine):
    verdict = features.features(Machine())
    assert verdict.status == "ok", verdict.detail
    nowhere = features.features(machine())  # a machine without the PMU of uprobes
    assert nowhere.status == "fail"
    assert "probe at a function" in nowhere.detail
    assert "ring buffer" not in nowhere.detail


@pytest.mark.root
def test_a_probe_counts_every_call_and_every_return():
    program = trial.trial_program(native_dir())
    for at_return in (False, True):
        with PerfProbe(program, trial.trial_function(program).offset, at_return=at_return) as probe:
            assert probe.hits == 0
            subprocess.run([program], check=True)
            subprocess.run([program], check=True)
            assert probe.hits == 14


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker-py drops a socket unclosed
def test_a_real_container_comes_through_and_nothing_of_it_stays():
    def ours():
        listed = subprocess.run(
            ["docker", "image", "ls", "--quiet", "convgpu-doctor"], capture_output=True, text=True, check=True
        )
        return listed.stdout

    verdict = trial.return_probes(Machine())
    assert verdict.status == "ok", verdict.detail
    assert ours() == ""
    gc.collect()


def test_device_files(machine):
    assert gpu.device_files(machine()).status == "fail"
    verdict = gpu.device_files(machine({"dev/nvidiactl": "", "dev/nvidia0": ""}))
    assert verdict.status == "warn"
    assert "/dev/nvidia-uvm" in verdict.detail
    assert "/dev/nvidia0" not in verdict.detail
    whole = gpu.device_files(machine({"dev/nvidia-uvm": ""}))
    assert (whole.status, whole.detail) == ("ok", "/dev/nvidiactl, /dev/nvidia-uvm, /dev/nvidia0")


def test_fuse(machine):
    assert gpu.fuse(machine()).status == "warn"
    assert gpu.fuse(machine({"dev/fuse": ""})).status == "ok"


def test_no_simulated_gpu_is_no_fault(machine):
    assert gpu.simulated(machine()).status == "skip"


@pytest.mark.parametrize(
    ("info", "client", "status"),
    [
        ({"ServerVersion": "28.2.2", "CgroupDriver": "systemd", "CgroupVersion": "2"}, "/usr/bin/docker", "ok"),
        ({"ServerVersion": "28.2.2", "CgroupDriver": "cgroupfs", "CgroupVersion": "1"}, None, "fail"),
        ({"ServerVersion": "20.10", "CgroupDriver": "none", "CgroupVersion": "1"}, "/usr/bin/docker", "fail"),
    ],
    ids=["ordinary", "no client", "rootless on cgroup v1"],
)
def test_engine(info, client, status):
    verdict = engine.judge_engine(info, client)
    assert verdict.status == status
    assert info["ServerVersion"] in verdict.detail


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker-py drops a socket unclosed
def test_no_engine(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    verdict = engine.docker(machine())
    assert verdict.status == "fail"
    assert "systemctl start docker" in verdict.fix
    gc.collect()


@pytest.mark.root
def test_a_user_who_may_not_ask_the_engine_is_told_so(tmp_path):
    code = (
        "from convgpu.doctor import engine\nfrom convgpu.doctor.finding import Machine\n"
        "verdict = engine.docker(Machine())\nprint(verdict.status, '|', verdict.detail, '|', verdict.fix)"
    )
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        listening.listen()
        tmp_path.chmod(0o700)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], user=65534, group=65534, extra_groups=[], capture_output=True,
            text=True, check=True, env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"},
        )  # fmt: skip
    status, detail, fix = done.stdout.strip().split(" | ")
    assert (status, detail) == ("fail", "this user may not ask the engine")
    assert "sudo convgpu doctor" in fix


def test_a_library_that_cannot_be_preloaded(machine, monkeypatch, tmp_path):
    native = tmp_path / "native"
    (native / "include").mkdir(parents=True)
    (native / "include" / "convgpu_abi.h").write_text("#define CVG_ABI_VERSION 1\n#define CVG_PAGE_BYTES 4096\n")
    monkeypatch.setenv("CONVGPU_NATIVE_DIR", str(native))
    assert "there is no" in guard.wrapper(machine()).detail
    (native / "libconvgpu.so").write_text("no ELF")
    verdict = guard.wrapper(machine())
    assert verdict.status == "fail"
    assert "cannot be preloaded" in verdict.detail


def test_an_installation_that_was_never_built(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("CONVGPU_NATIVE_DIR", str(tmp_path / "nothing"))
    assert guard.wrapper(machine()).status == "fail"


def test_daemon(machine, tmp_path):
    here = machine({"run/convgpu/": ""})
    away = guard.daemon(here)
    assert (away.status, away.fix) == ("warn", "start it with `convgpu daemon`")
    with FakeControlServer(sample_snapshot(), here.paths.control_socket):
        verdict = guard.daemon(here)
    assert (verdict.status, verdict.detail) == ("ok", "version 0.1.0, 1 GPU(s), 3 container(s)")


def test_the_report_fits_the_terminal():
    findings = [
        Finding(name="short", status="ok", detail="fine", fix=None),
        Finding(name="much longer", status="fail", detail="word " * 40, fix="do " * 40),
    ]
    lines = report(findings, width=60).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[0] == "ok    short        fine"
    assert lines[-1] == "1 ok, 1 fail"


@pytest.mark.root
@pytest.mark.bpf
def test_the_programs_really_load(machine):
    verdict = witness.programs(machine())
    assert verdict.status in ("ok", "warn"), verdict.detail
    assert "probes attached" in verdict.detail


def test_what_this_user_may_not_see_is_skipped_and_says_how_to_see_it():
    def look(_machine):
        raise PermissionError(13, "Permission denied", "/sys/kernel/tracing/events")

    (finding,) = examine(RunPaths(), checks=(Check("tracefs", look),))
    assert (finding.status, finding.fix) == ("skip", "run `sudo convgpu doctor`")
    assert "/sys/kernel/tracing/events" in finding.detail
