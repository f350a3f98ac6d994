# SPDX-License-Identifier: Apache-2.0
"""What this machine has and lacks: small checks, mostly by trying, each with a fix for the person.

A check is a function from a `Machine` to a `Verdict`; `CHECKS` is the list. The command line shows the findings.
The room may import `core`, `sources`, `api` and `native`; nothing but the command line imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from convgpu.doctor import engine, features, gpu, guard, kernel, trial, witness
from convgpu.doctor.finding import Check, Finding, Machine, Verdict
from convgpu.paths import RunPaths

CHECKS: Final = (
    Check("platform", kernel.platform),
    Check("privileges", kernel.privileges),
    Check("kernel", kernel.release),
    Check("page size", guard.page_size),
    Check("lockdown", features.lockdown),
    Check("kernel features", features.features),
    Check("cgroups", kernel.cgroups),
    Check("tracefs", witness.tracefs),
    Check("tracepoints", witness.tracepoints),
    Check("bcc", witness.bcc),
    Check("kernel headers", witness.headers),
    Check("eBPF programs", witness.programs),
    Check("Docker", engine.docker),
    Check("return probes", trial.return_probes),
    Check("NVML", gpu.nvml),
    Check("device files", gpu.device_files),
    Check("simulated GPU", gpu.simulated),
    Check("FUSE", gpu.fuse),
    Check("wrapper", guard.wrapper),
    Check("daemon", guard.daemon),
)
"""In the order in which one would mend things."""


def examine(
    paths: RunPaths,
    checks: Sequence[Check] = CHECKS,
    machine: Machine | None = None,
    on_begin: Callable[[int, str], None] = lambda *_: None,
) -> list[Finding]:
    """Run every check. One that breaks is a finding too, never a traceback.

    Args:
        paths: Where the daemon's files are.
        checks: What to look at.
        machine: Where to look; None: this machine.
        on_begin: Called before each check, with the number of those that are done and its name: some take seconds.
    """
    machine = machine or Machine(paths=paths)
    findings: list[Finding] = []
    for check in checks:
        on_begin(len(findings), check.name)
        findings.append(_finding(check, machine))
    return findings


def _finding(check: Check, machine: Machine) -> Finding:
    try:
        verdict = check.look(machine)
    except PermissionError as error:
        verdict = Verdict("skip", f"may not be looked at: {error}", "run `sudo convgpu doctor`")
    except Exception as error:  # noqa: BLE001 -- whatever breaks on a stranger's machine is what he wants to be told
        verdict = Verdict("fail", f"the check itself failed: {type(error).__name__}: {error}", "please report this")
    return Finding(name=check.name, status=verdict.status, detail=verdict.detail, fix=verdict.fix)
