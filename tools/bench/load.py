# SPDX-License-Identifier: Apache-2.0
"""How many requests a second the daemon answers, and how late: client processes ask as fast as they are answered.

The daemon is the whole real one in a process of its own: sockets, pages, pidfds, cgroups, engine, log on the disk.
Docker and NVML are the fakes of `convgpu.testing`, so neither is needed; cgroups need root. The clients are C programs
(`asker.c`), so that their own time is small. Nothing is freed: every question needs the daemon.

    python3 tools/bench/load.py --out DIR [--clients 16] [--containers 4] [--seconds 10] [--size 1] [--pause-us 0]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from convgpu.audit.verify import verify
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import Layers
from convgpu.core.identity import ContainerId
from convgpu.core.units import GIB
from convgpu.daemon.loop import WakefulEventLoop
from convgpu.daemon.service import Service
from convgpu.native import native_dir
from convgpu.sources import cgroup
from convgpu.sources.docker import ContainerFacts
from convgpu.testing.containers import FakeContainerSource
from convgpu.testing.gpus import FakeGpuSource, make_gpu

_HERE: Final = Path(__file__).parent
_RATE_LEAST: Final = 15_000
_P99_MOST_MS: Final = 2.0


def _serve(folder: Path, containers: int) -> None:
    """Be the daemon, until SIGTERM."""
    docker = FakeContainerSource()
    for number in range(containers):
        docker.add(
            ContainerFacts(
                container_id=_container(number),
                name=f"load-{number}",
                image="none",
                state="running",
                created_ns=number + 1,
                pid=0,
                client_dir=None,
                labels={"convgpu.limit": "1GiB"},
            ),
            announce=False,
        )
    nvml = FakeGpuSource(devices=(make_gpu(total_bytes=2 * containers * GIB),))
    config = DaemonConfig(
        run_dir=folder / "run", state_dir=folder / "state", log_dir=folder / "log", probes="off", simulated=True
    )

    async def serve() -> None:
        await Service(Layers.of(config), docker, nvml, None).run()

    with asyncio.Runner(loop_factory=WakefulEventLoop) as runner:
        runner.run(serve())


def _container(number: int) -> ContainerId:
    return ContainerId(f"{number + 0xC0FFEE:064x}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the daemon and the clients once; return the figures."""
    asker = folder / "asker"
    subprocess.run(["cc", "-O2", "-Wall", "-I", native_dir() / "include", "-o", asker, _HERE / "asker.c"], check=True)
    mount = cgroup.unified_mount()
    if mount is None:
        raise SystemExit("no unified cgroup hierarchy is mounted")
    with ExitStack() as stack:
        groups = [mount / "convgpu-load" / _container(number) for number in range(arguments.containers)]
        for group in groups:
            group.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_group, group)
        stack.callback(_remove_group, mount / "convgpu-load")
        daemon = subprocess.Popen(
            [sys.executable, "-P", __file__, "serve", str(folder), str(arguments.containers)],
            stderr=(folder / "daemon.err").open("w"),
        )
        stack.callback(daemon.wait, 30)
        stack.callback(daemon.terminate)
        client_socket = DaemonConfig(run_dir=folder / "run", state_dir=folder / "state").paths.client_socket
        while not client_socket.exists():
            if daemon.poll() is not None:
                raise SystemExit((folder / "daemon.err").read_text())
            time.sleep(0.02)
        clients = [
            subprocess.Popen(
                [
                    *(asker, client_socket, groups[number % len(groups)]),
                    *(str(arguments.seconds), str(arguments.size), str(arguments.pause_us)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(arguments.clients)
        ]
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise SystemExit("a client was not welcomed")
        before_s = _cpu_s(daemon.pid)
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        answers = [client.communicate()[0].splitlines() for client in clients]
        used_s = _cpu_s(daemon.pid) - before_s
    samples = sorted(int(line) for lines in answers for line in lines[1:])
    sums = [sum(column) for column in zip(*(map(int, lines[0].split()[1:]) for lines in answers), strict=True)]
    logged = _logged(folder / "log" / "audit.jsonl")
    return {
        "requests": sums[0],
        "granted": sums[1],
        "denied": sums[2],
        "granted_bytes": sums[3],
        "logged": logged,
        "per_second": round(sums[0] / arguments.seconds),
        "median_us": statistics.median(samples) / 1e3,
        "p99_us": samples[int(len(samples) * 0.99)] / 1e3,
        "max_us": samples[-1] / 1e3,
        "daemon_cpu_percent": round(100 * used_s / arguments.seconds),
        "daemon_us_per_request": round(1e6 * used_s / max(1, sums[0]), 1),
    }


def _logged(path: Path) -> int:
    """Decisions in the log, whose chain has to be whole."""
    report = verify(path)
    if not report.ok:
        raise SystemExit(f"the audit log does not verify: {report}")
    with path.open() as log:
        return sum('"type":"decision.' in line for line in log)


def _remove_group(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def main() -> int:
    """Measure, print, write; exit status 1 if a target is missed."""
    if sys.argv[1:2] == ["serve"]:
        _serve(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--containers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--pause-us", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = []
    for _ in range(arguments.rounds):
        folder = Path(tempfile.mkdtemp(prefix="convgpu-load-"))
        try:
            rounds.append(measure(arguments, folder))
        finally:
            shutil.rmtree(folder)
        print(json.dumps(rounds[-1]), flush=True)
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    complete = all(each["logged"] == each["requests"] for each in rounds)
    met = complete and median["per_second"] >= _RATE_LEAST and median["p99_us"] <= _P99_MOST_MS * 1e3
    rate, p99_ms = median["per_second"], median["p99_us"] / 1e3
    print(f"median of {len(rounds)}: {rate:.0f}/s, p99 {p99_ms:.2f} ms, all logged: {complete}")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
        options = {name: value for name, value in vars(arguments).items() if name != "out"}
        document = {"machine": machine, "options": options, "rounds": rounds, "median": median}
        (arguments.out / "load.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
