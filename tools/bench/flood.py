# SPDX-License-Identifier: Apache-2.0
"""A flood of memory calls under a real daemon: are its balances exact, its losses counted, and is it still idle?

    python3 tools/bench/flood.py --out DIR          # root; simulated GPU, no Docker

Each process takes and gives stream-ordered memory as fast as it can, without a pause, and counts its calls. Then the
daemon is killed, and the next witness of the same pins says what was counted: not one call may be missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from probes import Talker

from convgpu.api import Client
from convgpu.native import native_dir
from convgpu.paths import RunPaths
from convgpu.sources import simgpu
from convgpu.sources.ebpf import BpfWitness
from convgpu.testing.stage import AuditTail, StageDaemon, wait_until

_CALLS_A_BATCH: Final = 128  # 64 that take and 64 that give, BATCH in probes.c
_BATCHES: Final = 499
_LEAST_A_SECOND: Final = 200_000
_MOST_OF_A_CORE: Final = 0.60
_MOST_RESIDENT_MIB: Final = 250


@dataclass
class Flood:
    """What one process did.

    Attributes:
        calls: That it made, by its own count.
        counted: That the witness counted, successful ones.
        bytes: That it holds by the witness's count; it holds nothing.
    """

    pid: int
    calls: int
    counted: int = 0
    bytes: int = 0


@dataclass
class Figures:
    """What the run came to."""

    seconds: float
    calls: int
    calls_a_second: float
    daemon_of_a_core: float
    resident_mib: float
    resident_own_mib: float
    lost: dict[str, int]
    logged: dict[str, int]
    floods: list[Flood]

    @property
    def is_exact(self) -> bool:
        """Whether no call is missing and none was invented."""
        return all(flood.counted == flood.calls and flood.bytes == 0 for flood in self.floods)

    @property
    def are_losses_told(self) -> bool:
        """Whether the log has every loss that the kernel counted."""
        return all(self.logged.get(kind, 0) == count for kind, count in self.lost.items())

    def verdicts(self) -> list[tuple[str, str, str, bool]]:
        """Return what was asked, what was found, the target, and whether it is met."""
        suppressed = ", ".join(f"{count} {kind}" for kind, count in self.lost.items()) or "none"
        return [
            ("calls", f"{self.calls_a_second:,.0f} a second for {self.seconds:.1f} s", f"at least {_LEAST_A_SECOND:,}",
             self.calls_a_second >= _LEAST_A_SECOND),
            ("balances", f"{sum(f.counted for f in self.floods):,} of {self.calls:,} calls", "exact", self.is_exact),
            ("losses", f"{suppressed}; logged: {sum(self.logged.values())}", "all in the log", self.are_losses_told),
            ("daemon", f"{self.daemon_of_a_core:.1%} of one core", f"below {_MOST_OF_A_CORE:.0%}",
             self.daemon_of_a_core < _MOST_OF_A_CORE),
            ("daemon, resident", f"{self.resident_mib:.0f} MiB, {self.resident_own_mib:.0f} its own",
             f"below {_MOST_RESIDENT_MIB} MiB", self.resident_mib < _MOST_RESIDENT_MIB),
        ]  # fmt: skip


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> tuple[float, float]:
    """Return what is resident, and what of it no file backs."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def _pour(talker: Talker, flood: Flood, until_s: float) -> None:
    while time.monotonic() < until_s:
        talker.ask("async", _BATCHES)
        flood.calls += (_BATCHES + 1) * _CALLS_A_BATCH  # the first batch of each is not timed


def _logged_losses(log: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in AuditTail(log).follow():
        if record["type"] == "loss" and record["reason"].startswith("witness: "):
            kind = record["reason"].removeprefix("witness: ").partition(";")[0]
            found[kind] = found.get(kind, 0) + record["count"]
    return found


def measure(seconds: float, processes: int, folder: Path) -> Figures:
    """Run it once."""
    sim = folder / "sim"
    os.environ["CONVGPU_RUN_DIR"] = str(folder / "run")
    os.environ["CONVGPU_SIM_DEV"] = str(sim / "dev")
    libraries = simgpu.library_file("libcuda.so.1"), simgpu.library_file("libcudart.so.13")
    with ExitStack() as stack:
        simgpu.up(sim)
        stack.callback(simgpu.down, sim)
        daemon = StageDaemon(folder, ["--simulated"])
        daemon.start()
        stack.callback(daemon.stop)
        wait_until("the witness is attached", lambda: _is_watching(folder / "run"))
        talkers = [stack.enter_context(Talker(libraries)) for _ in range(processes)]
        floods = [Flood(talker.pid, 0) for talker in talkers]
        for talker, flood in zip(talkers, floods, strict=True):
            _pour(talker, flood, 0.0)
            _pour(talker, flood, time.monotonic() + 0.1)
        begun = sum(flood.calls for flood in floods)
        cpu_s, began_s = _cpu_s(daemon.pid), time.monotonic()
        threads = [
            threading.Thread(target=_pour, args=(talker, flood, began_s + seconds))
            for talker, flood in zip(talkers, floods, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - began_s
        used = (_cpu_s(daemon.pid) - cpu_s) / took_s
        resident, own = _resident_mib(daemon.pid)
        time.sleep(3)  # a round, which writes what was lost
        daemon.kill()
        logged = _logged_losses(daemon.log)
        lost = _count(floods, folder / "run")
        calls = sum(flood.calls for flood in floods)
        return Figures(took_s, calls, (calls - begun) / took_s, used, resident, own, lost, logged, floods)


def _count(floods: list[Flood], run_dir: Path) -> dict[str, int]:
    """Read what the killed daemon's probes have counted; return the losses."""
    witness = BpfWitness(native_dir() / "bpf", owner=str(run_dir))
    witness.start()
    try:
        for balance in witness.balances():
            for flood in floods:
                if balance.pid == flood.pid:
                    flood.counted += balance.driver_allocations + balance.driver_frees
                    flood.bytes += balance.driver_by_kind.get("pool", 0)
        return {kind: count for kind, count in witness.losses().items() if count}
    finally:
        witness.close()


def _is_watching(run_dir: Path) -> bool:
    with Client(RunPaths(run_dir).control_socket) as client:
        return client.snapshot().witness.running


def main() -> int:
    """Measure, print, write DIR/flood.json and DIR/flood.md; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="convgpu-flood-"))
    try:
        figures = measure(arguments.seconds, arguments.processes, folder)
    finally:
        shutil.rmtree(folder)
    lines = ["| | found | target | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {found} | {target} | {'met' if holds else '**MISSED**'} |"
        for what, found, target, holds in figures.verdicts()
    ]
    lines += ["", f"{os.cpu_count()} processors, Linux {platform.release()}, {arguments.processes} processes."]
    print("\n".join(lines))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "flood.md").write_text("\n".join(lines) + "\n")
    (arguments.out / "flood.json").write_text(json.dumps(asdict(figures), indent=1) + "\n")
    return 0 if all(holds for *_, holds in figures.verdicts()) else 1


if __name__ == "__main__":
    sys.exit(main())
