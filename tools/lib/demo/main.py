# SPDX-License-Identifier: Apache-2.0
"""ConvGPU's main job as a story: alpha, beta and gamma share a GPU of 10 GiB; every printed line is a record."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu import GIB, DemoGpu, open_gpu, torch_story

from convgpu.testing.stage import (
    AuditTail,
    StageContainer,
    StageDaemon,
    StageError,
    interpreter,
    make_image,
    output_of,
    remove_containers,
    wait_until,
)

NAMES = ("alpha", "beta", "gamma", "delta")
_COLOURS = {"alpha": "36", "beta": "33", "gamma": "35", "delta": "34"}
RESUME_WITHIN_MS = 100
GIVE_BACK_WITHIN_S = 1.0


@dataclass(frozen=True)
class Check:
    """One line of the closing table."""

    what: str
    expected: str
    found: str
    holds: bool


class Story:
    """The acts, and what each has to show."""

    def __init__(self, gpu: DemoGpu, daemon: StageDaemon, folder: Path) -> None:
        self._gpu = gpu
        self._daemon = daemon
        self._folder = folder
        self._log = AuditTail(daemon.log, self._print)
        self._began_ns: int | None = None
        self.checks: list[Check] = []

    def _print(self, record: dict[str, Any]) -> None:
        """Print a record's own sentence, with the seconds since the first one."""
        if self._began_ns is None:
            self._began_ns = record["mono_ns"]
        seconds = (record["mono_ns"] - self._began_ns) / 1e9
        message = record["msg"]
        if sys.stdout.isatty():
            name = (record.get("container") or {}).get("name")
            message = f"\033[{_COLOURS.get(name, '0')}m{message}\033[0m"
        print(f"{seconds:8.3f}  {record['type']:<18} {message}", flush=True)

    def _container(self, name: str, limit: str) -> StageContainer:
        return StageContainer(name, limit, self._folder, self._gpu.docker)

    def _check(self, what: str, expected: object, found: object, *, holds: bool | None = None) -> None:
        verdict = expected == found if holds is None else holds
        self.checks.append(Check(what, str(expected), str(found), verdict))

    def _act(self, text: str) -> None:
        self._log.follow()
        print(f"\n--- {text}", flush=True)

    def _listing(self) -> dict[str, dict[str, object]]:
        """Return `convgpu ps` by container name: the figures of its one device."""
        listed = json.loads(output_of("convgpu", "ps", "--format", "json"))
        return {entry["name"]: entry["devices"][0] | {"state": entry["state"]} for entry in listed}

    def _compare(self, when: str, names: tuple[str, ...]) -> None:
        """Ledger = witness = NVML for each container, once nothing is in flight."""
        listing = self._listing()
        for name in names:
            device = listing.get(name, {})
            figures = [device.get(key) for key in ("used_bytes", "witness_bytes", "nvml_bytes")]
            self._check(
                f"{when}: {name}: ledger = witness = NVML",
                "three equal figures above 0",
                " = ".join("N/A" if figure is None else str(figure) for figure in figures),
                holds=len(set(figures)) == 1 and isinstance(figures[0], int) and figures[0] > 0,
            )

    def play(self) -> None:
        """All acts in order."""
        alpha, beta, gamma = self._first_act()
        self._second_act()
        self._crash()
        self._third_act(alpha, beta, gamma)
        self._fourth_act()
        self._log.follow()

    def _first_act(self) -> tuple[StageContainer, StageContainer, StageContainer]:
        self._act("alpha (limit 5GiB) takes 4GiB")
        alpha = self._container("alpha", "5GiB")
        alpha.run(self._gpu.story, "name=alpha", "alloc=4GiB", "wait-file=/stage/alpha-exit", "exit=0")
        self._log.wait("decision.granted", "alpha", 4 * GIB)
        alpha.wait_for("alloc")
        self._check("alpha: 4GiB", "cudaSuccess", alpha.step("alloc").get("code"))

        self._act("gamma (limit 1GiB) asks for 2GiB: refused at once, and it goes on")
        gamma = self._container("gamma", "1GiB")
        gamma.run(
            # 2 MiB first, so that the time of the refusal is not that of making a context.
            self._gpu.story, "name=gamma", "try=2MiB", "try=2GiB", "info", "wait-file=/stage/gamma-again", "alloc=2GiB",
            "wait-file=/stage/gamma-exit", "exit=0",
        )  # fmt: skip
        denied = self._log.wait("decision.denied", "gamma", 2 * GIB)
        info = gamma.wait_for("info")
        refused = gamma.step("try")
        self._check("gamma: 2GiB above its limit", "cudaErrorMemoryAllocation", refused.get("code"))
        self._check("gamma: the reason in the log", "limit", denied["reason"])
        self._check(
            "gamma: the refusal came at once",
            "< 100 ms",
            f"{refused['took_ms']} ms",
            holds=float(refused["took_ms"]) < 100,
        )
        self._check("gamma: the GPU it sees is its limit", GIB, int(info["total_bytes"]))

        self._act("beta (limit 5GiB, 4GiB of them left) asks for 4GiB beside its context: suspended, not refused")
        beta = self._container("beta", "5GiB")
        if self._gpu.torch is None:
            beta.run(self._gpu.story, "name=beta", "alloc=4GiB", "wait-file=/stage/beta-exit", "exit=0")
        else:
            script = torch_story(self._folder)
            beta.run(self._gpu.torch, script, "beta", str(4 * GIB >> 20), "/stage/beta-exit")
        suspended = self._log.wait("decision.suspended", "beta", 4 * GIB)
        self._check("beta: 4GiB", "decision.suspended", suspended["type"])
        return alpha, beta, gamma

    def _second_act(self) -> None:
        time.sleep(0.3)  # beyond the last call in flight: the three figures are compared at rest
        self._compare("beta waits", ("alpha", "beta", "gamma"))
        self._act("the monitor now")
        print(output_of("convgpu", "top", "--once"), flush=True)
        self._act("convgpu limit set gamma 3GiB, while it runs; its next try may wait")
        print(output_of("convgpu", "limit", "set", "gamma", "3GiB"), end="", flush=True)
        (self._folder / "gamma-again").touch()
        suspended = self._log.wait("decision.suspended", "gamma", 2 * GIB)
        self._check("gamma: 2GiB after `limit set gamma 3GiB`", "decision.suspended", suspended["type"])

    def _crash(self) -> None:
        self._act("the daemon is killed with SIGKILL, and started again")
        before = self._listing()
        self._daemon.kill()
        time.sleep(0.5)
        self._daemon.start()
        self.wait_for_witness()
        wait_until("beta and gamma ask again", lambda: sum(_waiting(self._listing().values())) == 2)
        after = self._listing()
        self._log.follow()
        for name in ("alpha", "beta", "gamma"):
            keys = ("limit_bytes", "assigned_bytes", "used_bytes", "witness_bytes", "nvml_bytes", "waiting", "denied")
            was, now = ([entry.get(name, {}).get(key) for key in keys] for entry in (before, after))
            self._check(f"{name}: limit, assigned, used, witness, NVML, waiting, denied after the crash", was, now)

    def wait_for_witness(self) -> None:
        """Wait until the probes are in place: what they miss before is not theirs to tell."""

        def attached() -> bool:
            snapshot = json.loads(output_of("convgpu", "top", "--once", "--json"))
            return bool(snapshot["witness"]["running"])

        wait_until("the witness is attached", attached)

    def _third_act(self, alpha: StageContainer, beta: StageContainer, gamma: StageContainer) -> None:
        self._act("alpha exits: gamma and beta resume")
        alpha.tell("exit")
        self._check("alpha: exit status", 0, alpha.exit_code())
        left_ms = int(alpha.wait_for("exit")["ms"])
        for container in (beta, gamma):
            resumed = self._log.wait("decision.resumed", container.name)
            line = container.wait_for("alloc")
            took_ms = int(line["ms"]) - left_ms
            self._check(
                f"{container.name}: its cudaMalloc returned after alpha's end",
                f"<= {RESUME_WITHIN_MS} ms",
                f"{took_ms} ms",
                holds=line["code"] == "cudaSuccess" and took_ms <= RESUME_WITHIN_MS,
            )
            self._check(
                f"{container.name}: waited as the log says",
                "> 0",
                f"{resumed['waited_ns'] / 1e6:.1f} ms",
                holds=resumed["waited_ns"] > 0,
            )
        time.sleep(0.3)  # as above: compared at rest

    def _fourth_act(self) -> None:
        self._compare("after resuming", ("beta", "gamma"))
        for name in ("beta", "gamma"):
            (self._folder / f"{name}-exit").touch()
            self._check(f"{name}: exit status", 0, int(output_of("docker", "wait", name)))

        self._act("delta (limit 2GiB) takes 1GiB and is killed with SIGKILL")
        delta = self._container("delta", "2GiB")
        delta.run(self._gpu.story, "name=delta", "alloc=1GiB", "hold=600")
        delta.wait_for("alloc")
        held = self._listing()["delta"]["used_bytes"]
        began = time.monotonic()
        delta.kill()
        self._log.wait("container.gone", "delta")
        gone = self._log.wait("process.gone", "delta")
        self._check("delta: given back by its death", held, gone["used_bytes"])
        self._check(
            "delta: given back in time",
            f"<= {GIVE_BACK_WITHIN_S} s",
            f"{time.monotonic() - began:.3f} s",
            holds=time.monotonic() - began <= GIVE_BACK_WITHIN_S,
        )
        final = json.loads(output_of("convgpu", "top", "--once", "--json"))
        self._check(
            "at the end: containers, and bytes assigned on the GPU",
            (0, 0),
            (len(final["containers"]), final["gpus"][0]["assigned_bytes"]),
        )
        self._check("at the end: events that the witness lost", 0, sum(final["witness"]["lost"].values()))
        findings = [record for record in self._log.records if record["type"] == "finding.raised"]
        self._check("lasting differences between ledger, witness and NVML", 0, len(findings))


def _waiting(devices: object) -> list[int]:
    return [int(device["waiting"]) for device in devices]  # type: ignore[attr-defined]


def _table(checks: list[Check]) -> str:
    rows = [("", "what", "expected", "found")]
    rows += [("ok" if check.holds else "FAILED", check.what, check.expected, check.found) for check in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    )


def run(arguments: argparse.Namespace) -> int:
    """Set the stage, play, clear the stage; return the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="convgpu-demo-"))
    folder.chmod(0o755)
    os.environ["CONVGPU_RUN_DIR"] = str(Path("/run/convgpu-demo"))
    story: Story | None = None
    try:
        remove_containers(NAMES)
        make_image()
        with open_gpu(arguments.gpu, folder, arguments.torch) as gpu:
            print(f"ConvGPU demo on: {gpu.label}", flush=True)
            daemon = StageDaemon(folder, gpu.daemon)
            daemon.start()
            try:
                story = Story(gpu, daemon, folder)
                story.wait_for_witness()
                story.play()
            finally:
                if arguments.keep is not None:
                    _keep(arguments.keep, daemon.log)
                remove_containers(NAMES)
                daemon.stop()
            verified = subprocess.run(
                ["convgpu", "audit", "verify", str(daemon.log)], capture_output=True, text=True, check=False
            )
            story.checks.append(Check("convgpu audit verify", "0", str(verified.returncode), verified.returncode == 0))
            print(f"\n--- convgpu audit verify\n{verified.stdout}{verified.stderr}", end="", flush=True)
    except StageError as error:
        print(f"\nthe demo stopped: {error}", file=sys.stderr)
        return 1
    finally:
        if story is not None and story.checks:
            table = _table(story.checks)
            print(f"\n--- what had to hold\n{table}", flush=True)
            if arguments.keep is not None:
                (arguments.keep / "table.txt").write_text(table + "\n")
        shutil.rmtree(folder, ignore_errors=True)
    failed = sum(not check.holds for check in story.checks)
    print(f"\n{len(story.checks) - failed} of {len(story.checks)} hold", flush=True)
    return 1 if failed else 0


def _keep(target: Path, log: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, target / "audit.jsonl")
    for name in NAMES:
        done = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=False)
        (target / f"{name}.log").write_text(done.stdout + done.stderr)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument("--gpu", choices=("sim", "real"), default="sim")
    parser.add_argument(
        "--torch", metavar="PYTHON", type=interpreter, help="with --gpu real: beta is a PyTorch process"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep log, output and table there")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
