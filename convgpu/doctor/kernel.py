# SPDX-License-Identifier: Apache-2.0
"""Checks of the machine itself: platform, rights, kernel, cgroups."""

from __future__ import annotations

import re
from platform import machine as machine_name
from typing import Final

from convgpu.doctor.finding import Machine, Verdict
from convgpu.sources.cgroup import unified_mount
from convgpu.sources.ebpf import kernel_version, return_probes_are_safe

_OLDEST_KERNEL: Final = (5, 8)
"""BPF ring buffers came with 5.8."""
_CAPABILITIES: Final = {"CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19, "CAP_DAC_OVERRIDE": 1}
"""Bits of capabilities(7) that the daemon uses: BPF and perf, other processes' /proc, its folders."""


def platform(machine: Machine) -> Verdict:
    """Look for platforms on which the driver's boundary is another one."""
    release_text = machine.read("proc/sys/kernel/osrelease") or ""
    if "microsoft" in release_text.lower() or (machine.root / "dev/dxg").exists():
        return Verdict(
            "fail",
            "this is WSL2: its GPU is driven by Windows through /dev/dxg, where ConvGPU can neither limit nor witness",
            "use a machine that boots Linux, or the simulated GPU (`convgpu sim up`)",
        )
    tree = machine.read("proc/device-tree/compatible") or ""
    if (machine.root / "etc/nv_tegra_release").exists() or "nvidia,tegra" in tree:
        return Verdict(
            "fail",
            "this is a Tegra (Jetson): its GPU shares the memory of the CPU and has no resource-manager boundary",
            "use a machine with a discrete GPU, or the simulated GPU (`convgpu sim up`)",
        )
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.read("etc/os-release") or "", re.MULTILINE)
    return Verdict("ok", name.group(1) if name else "Linux")


def privileges(machine: Machine) -> Verdict:
    """Look at this process's user and capabilities, which the daemon would have too."""
    status = machine.read("proc/self/status") or ""
    user = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    effective = re.search(r"^CapEff:\s+([0-9a-f]+)", status, re.MULTILINE)
    if user is None or effective is None:
        return Verdict("fail", "/proc/self/status does not tell user and capabilities", "mount /proc")
    if user.group(1) != "0":
        return Verdict(
            "warn", "not root: what needs root could not be tried, and the daemon needs it", "run `sudo convgpu doctor`"
        )
    bits = int(effective.group(1), 16)
    lacking = [name for name, bit in _CAPABILITIES.items() if not bits >> bit & 1]
    if lacking:
        return Verdict(
            "fail", f"root without {', '.join(lacking)}", "run on the host, not in a container without these rights"
        )
    return Verdict("ok", "root with all capabilities that the daemon uses")


def release(machine: Machine) -> Verdict:
    """Look at the kernel's version."""
    text = (machine.read("proc/sys/kernel/osrelease") or "").strip()
    if kernel_version(text) == (0, 0):
        return Verdict("fail", f"the kernel calls itself '{text}', which is no version", "use a kernel that has one")
    if kernel_version(text) < _OLDEST_KERNEL:
        return Verdict("fail", f"{text}: the witness needs BPF ring buffers", "use Linux 5.8 or later")
    if not return_probes_are_safe(text, machine_name()):
        return Verdict(
            "warn",
            f"{text}: a return probe would end processes under Docker's seccomp filter, so what programs ask of CUDA "
            "is not witnessed; what the driver gives them is",
            "use Linux 6.14 or later",
        )
    return Verdict("ok", text)


def cgroups(machine: Machine) -> Verdict:
    """Look which hierarchies are mounted: the witness tells containers apart by their v2 cgroup."""
    root = machine.root / "sys/fs/cgroup"
    mount = unified_mount(root)
    if mount == root:
        return Verdict("ok", "v2")
    if mount is not None:
        return Verdict("ok", "hybrid: v1 controllers, v2 for identity")
    if not root.is_dir():
        return Verdict("fail", "no cgroups are mounted at /sys/fs/cgroup", "mount them, or boot with systemd")
    return Verdict(
        "warn",
        "v1 alone: the witness has to look each process up in /proc, and may miss the name of one that ends at once",
        "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup/unified",
    )
