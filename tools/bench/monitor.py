# SPDX-License-Identifier: Apache-2.0
"""What the monitor costs: CPU time of `convgpu top` in a pseudo-terminal, with many containers that all change.

The daemon is a control socket that serves snapshots of so many containers, each with a process; in every one every
figure is another, so no line can stay as it is. Only the monitor's own CPU time counts (user and system, from
/proc/PID/stat), so it does not matter what else the machine does. Needs neither root, Docker nor a GPU.

    python3 tools/bench/monitor.py --out DIR [--containers 1000] [--seconds 20] [--interval 1]

Exit status 0: every target is met.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from convgpu.core.events import LogEvent
from convgpu.core.status import ContainerStatus, ProcessStatus, Snapshot
from convgpu.core.units import GIB, MIB
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import container_status, device_usage, sample_snapshot

_MOST_PERCENT: Final = 10.0
"""Of one core, at one refresh a second."""
_CASES: Final[tuple[tuple[str, int, int, bytes], ...]] = (
    ("80x24", 80, 24, b""),
    ("120x40", 120, 40, b""),
    ("200x50", 200, 50, b""),
    ("300x100", 300, 100, b""),
    ("200x50, sorted by usage", 200, 50, b"sss"),
    ("200x50, filtered", 200, 50, b"/story\r"),
    ("200x50, tree", 200, 50, b"t"),
    ("200x50, close look", 200, 50, b"\r"),
)
"""What is shown, the terminal, and the keys that lead there."""
_WARM_UP_S: Final = 4.0


class _Daemon(threading.Thread):
    """Serves another snapshot at each interval, and tells an event with it."""

    def __init__(self, server: FakeControlServer, containers: int, interval_s: float) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._interval_s = interval_s
        self._rounds = [_snapshot(containers, number) for number in range(8)]
        server.snapshot = self._rounds[0]

    def run(self) -> None:
        number = 0
        while True:
            time.sleep(self._interval_s)
            number += 1
            self._server.snapshot = self._rounds[number % len(self._rounds)]
            self._server.events.append(
                LogEvent(
                    seq=number,
                    ts="2026-03-01T12:00:00.000000000Z",
                    mono_ns=number,
                    type="decision.denied",
                    sentence=f"trainer-{number} was denied 2GiB on GPU 0: over its limit, holds 512MiB of 1GiB",
                )
            )


def _snapshot(count: int, number: int) -> Snapshot:
    sample = sample_snapshot()
    (waiting,) = sample.queue
    queue = tuple(
        replace(waiting, container_name=f"trainer-{each}", position=each + 1, waited_ms=each * 1000 + number)
        for each in range(count // 100)
    )
    return replace(sample, containers=tuple(_container(each, number) for each in range(count)), queue=queue)


def _container(each: int, number: int) -> ContainerStatus:
    used_bytes = (each * 37 + number * 101) % 1024 * MIB
    process = ProcessStatus(
        pid=10_000 + each, comm="story", used_bytes=used_bytes, witness_bytes=used_bytes, nvml_bytes=used_bytes
    )
    return container_status(f"trainer-{each}", device_usage(used_bytes, GIB, denied=number, processes=(process,)))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure(
    server: FakeControlServer, run_dir: Path, case: tuple[str, int, int, bytes], seconds: float, interval_s: float
) -> dict[str, object]:
    name, columns, lines, keys = case
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "convgpu.cli.main", "top", "--interval", str(interval_s)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "CONVGPU_RUN_DIR": str(run_dir), "TERM": "xterm-256color"},
    )
    try:
        written = _read_for(master, _WARM_UP_S)
        os.write(master, keys)
        _read_for(master, _WARM_UP_S)
        refreshes, began_s, cpu_s = server.requests.count("snapshot"), time.monotonic(), _cpu_s(process.pid)
        written = _read_for(master, seconds)
        took_s, used_s = time.monotonic() - began_s, _cpu_s(process.pid) - cpu_s
        refreshes = server.requests.count("snapshot") - refreshes
        process.send_signal(signal.SIGINT)
        _read_for(master, 0.5)
        status = process.wait(10)
    finally:
        process.kill()
        os.close(master)
        os.close(slave)
    return {
        "case": name,
        "columns": columns,
        "lines": lines,
        "interval_s": interval_s,
        "took_s": round(took_s, 3),
        "refreshes": refreshes,
        "cpu_s": round(used_s, 3),
        "cpu_percent": round(100 * used_s / took_s, 2),
        "cpu_ms_per_refresh": round(1000 * used_s / max(1, refreshes), 2),
        "written_bytes": written,
        "exit_status": status,
    }


def _read_for(descriptor: int, seconds: float) -> int:
    """Be the terminal: take all that is written, for so long."""
    end_s = time.monotonic() + seconds
    count = 0
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left_s)[0]:
            count += len(os.read(descriptor, 65536))
    return count


def _table(samples: Sequence[dict[str, object]], containers: int) -> str:
    lines = [
        f"CPU time of `convgpu top` with {containers} containers.",
        "",
        "| shown | refreshes | CPU, ms a refresh | CPU, % of a core | at most, % | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for sample in samples:
        holds = "met" if _holds(sample) else "**MISSED**"
        lines.append(
            f"| {sample['case']} | {sample['refreshes']} | {sample['cpu_ms_per_refresh']} | {sample['cpu_percent']} "
            f"| {_MOST_PERCENT:g} | {holds} |"
        )
    return "\n".join(lines) + "\n"


def _holds(sample: dict[str, object]) -> bool:
    """Also that it really drew: as many refreshes as the interval asks for, and a clean end."""
    enough = float(str(sample["refreshes"])) >= 0.8 * float(str(sample["took_s"])) / float(str(sample["interval_s"]))
    return enough and sample["exit_status"] == 0 and float(str(sample["cpu_percent"])) < _MOST_PERCENT


def main() -> int:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="raw data and table go there")
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two refreshes")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = {
        "command": " ".join(sys.argv),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "containers": arguments.containers,
        "load_before": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    samples = []
    with tempfile.TemporaryDirectory(prefix="convgpu-bench-") as folder:
        run_dir = Path(folder)
        with FakeControlServer(sample_snapshot(), run_dir / "control.sock") as server:
            _Daemon(server, arguments.containers, arguments.interval).start()
            for case in _CASES:
                samples.append(_measure(server, run_dir, case, arguments.seconds, arguments.interval))
                print(json.dumps(samples[-1]), flush=True)
    table = _table(samples, arguments.containers)
    (arguments.out / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (arguments.out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    (arguments.out / "table.md").write_text(table)
    print(table)
    return 0 if all(map(_holds, samples)) else 1


if __name__ == "__main__":
    sys.exit(main())
