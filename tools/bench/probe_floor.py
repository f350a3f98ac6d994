# SPDX-License-Identifier: Apache-2.0
"""What of a probe's cost is the kernel's and what the witness's programs': one process, ways of watching in turns.

    python3 tools/bench/probe_floor.py --out DIR                                 # root; no Docker, no daemon
    python3 tools/bench/probe_floor.py --out DIR --libcuda PATH --libcudart PATH

Watched are cuMemAllocAsync and cuMemFreeAsync. With each way of attaching a program that there is, an empty program at
the entry, at the return, at both; then the witness as it is. Last, the witness again while the kernel counts its
programs' runs, which makes each some 25 ns longer: that table says what a run of each program takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from probes import PAIRS, Talker, find_runtime, first_instruction, watched

from convgpu.sources.bcc import load_bcc
from convgpu.sources.bpf_kernel import ATTACH_UPROBE_MULTI, ATTACH_UPROBE_SESSION, BpfKernel, ProgramRuns
from convgpu.sources.ebpf import DEFAULT_CACHE_DIR
from convgpu.sources.elf import Function, find_functions
from convgpu.sources.headers import ensure_headers
from convgpu.sources.libraries import find_driver

ROUNDS: Final = 7
BATCHES: Final = 60
_WARMING: Final = 10
_PAIRS: Final = ("async", "runtime-async")
_FUNCTIONS: Final = ("cuMemAllocAsync", "cuMemFreeAsync")
_OFF: Final = "no probe"
_WITNESS: Final = "the witness, all probes"
_COUNTED: Final = "the witness, its runs counted"

_EMPTY: Final = b"""
#include <uapi/linux/ptrace.h>
int empty(struct pt_regs *ctx) { return 0; }
int empty_multi(struct pt_regs *ctx) { return 0; }
int empty_session(struct pt_regs *ctx) { return 0; }
"""
_PROGRAMS: Final = {"event": ("empty", -1), "multi": ("empty_multi", ATTACH_UPROBE_MULTI)}
_PROGRAMS_SESSION: Final = ("empty_session", ATTACH_UPROBE_SESSION)

_Attach = Callable[[Function, int], list[int]]


class Empty:
    """Empty programs, and the ways in which this kernel can attach them."""

    def __init__(self, libcuda: Path) -> None:
        self.missing: dict[str, str] = {}
        self.ways: dict[str, _Attach] = {}
        self._kernel = BpfKernel()
        self._library = libcuda
        bcc = load_bcc()
        headers = ensure_headers(platform.release(), DEFAULT_CACHE_DIR)
        os.environ.update(headers.env)
        self._bcc = bcc
        self._bpf = bcc.BPF(text=_EMPTY, cflags=["-w"])
        for way, (name, attach_type) in _PROGRAMS.items():
            self._add_way(way, name, attach_type)
        self._add_session()

    def _load(self, name: str, attach_type: int) -> int:
        return int(self._bpf.load_func(name.encode(), self._bcc.BPF.KPROBE, attach_type=attach_type).fd)

    def _add_way(self, way: str, name: str, attach_type: int) -> None:
        try:
            program = self._load(name, attach_type)
            attach = self._event if way == "event" else self._multi
            self._try(lambda function, file: attach(function, file, program, at_return=False))
        except Exception as error:  # noqa: BLE001 -- bcc raises nothing more precise
            self.missing[way] = str(error)
            return
        ends = {"entry": (False,), "return": (True,), "entry and return": (True, False)}
        for name_of_ends, at_returns in ends.items():
            self.ways[f"empty, {way}, {name_of_ends}"] = lambda function, file, chosen=at_returns: [
                link for at_return in chosen for link in attach(function, file, program, at_return=at_return)
            ]

    def _add_session(self) -> None:
        name, attach_type = _PROGRAMS_SESSION
        try:
            program = self._load(name, attach_type)

            def attach(function: Function, file: int) -> list[int]:
                return [self._kernel.multi_link(function, file, program, session=True)]

            self._try(attach)
        except Exception as error:  # noqa: BLE001
            self.missing["session"] = str(error)
            return
        self.ways["empty, session, entry and return"] = attach

    def _event(self, function: Function, file: int, program: int, *, at_return: bool) -> list[int]:
        event = self._kernel.function_event(function, file, at_return=at_return)
        self._kernel.run_at(event, program)
        return [event]

    def _multi(self, function: Function, file: int, program: int, *, at_return: bool) -> list[int]:
        return [self._kernel.multi_link(function, file, program, at_return=at_return)]

    def _try(self, attach: _Attach) -> None:
        with self._attached(attach, _FUNCTIONS[:1]):
            pass

    @contextmanager
    def _attached(self, attach: _Attach, functions: tuple[str, ...]) -> Iterator[None]:
        with ExitStack() as stack, self._library.open("rb") as file:
            for function in find_functions(file.fileno(), functions).values():
                os.pread(file.fileno(), 1, function.offset)
                for descriptor in attach(function, file.fileno()):
                    stack.callback(os.close, descriptor)
            yield

    @contextmanager
    def watching(self, way: str) -> Iterator[None]:
        """Have the empty programs attached in one way."""
        with self._attached(self.ways[way], _FUNCTIONS):
            yield


def measure(libraries: tuple[Path, Path], rounds: int, batches: int, raw: Callable[..., None]) -> Report:
    """Take turns, as the ways come; nanoseconds of a call that takes and of one that gives."""
    empty = Empty(libraries[0])
    report = Report(empty.missing)
    kernel = BpfKernel()
    with Talker(libraries) as talker:

        def sample(way: str, turn: int) -> None:
            for pair in _PAIRS:
                talker.ask(pair, _WARMING)
                found = talker.ask(pair, batches)
                take_ns, give_ns = zip(*found, strict=True)
                raw(pair=pair, way=way, turn=turn, take_ns=take_ns, give_ns=give_ns)
                report.samples.setdefault((pair, way), []).extend(found)

        for turn in range(rounds):
            sample(_OFF, turn)
            for way in empty.ways:
                with empty.watching(way):
                    sample(way, turn)
            with watched("all", libraries):
                sample(_WITNESS, turn)
        with watched("all", libraries) as witness:
            assert witness is not None
            statistics_on = kernel.count_runs()
            sample(_COUNTED, 0)
            for pair in PAIRS.keys() - set(_PAIRS):
                talker.ask(pair, batches)
            os.close(statistics_on)
            report.runs = {name: kernel.runs(fd) for name, fd in witness.programs().items()}
    for name, run in report.runs.items():
        raw(program=name, time_ns=run.time_ns, runs=run.runs)
    return report


class Report:
    """What was measured, and the tables of it."""

    def __init__(self, missing: dict[str, str]) -> None:
        self.missing = missing
        self.samples: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.runs: dict[str, ProgramRuns] = {}

    def _median(self, pair: str, way: str, index: int) -> float:
        return statistics.median(each[index] for each in self.samples[pair, way]) / 1000

    def added_us(self, pair: str, way: str) -> float:
        """Return how much longer a pair of calls takes than with no probe."""
        return sum(self._median(pair, way, index) - self._median(pair, _OFF, index) for index in (0, 1))

    def lines(self, libcuda: Path) -> list[str]:
        """Return the tables."""
        ways = list(dict.fromkeys(way for _, way in self.samples))
        lines = [
            "| way | cuMemAllocAsync, us | cuMemFreeAsync, us | pair, added | from libcudart: pair, added |",
            "|---|---|---|---|---|",
        ]
        for way in ways:
            take, give = (self._median("async", way, index) for index in (0, 1))
            added, through_runtime = (self.added_us(pair, way) for pair in _PAIRS)
            lines.append(f"| {way} | {take:.2f} | {give:.2f} | {added:+.2f} | {through_runtime:+.2f} |")
        lines += ["", "| program | runs | ns a run |", "|---|---|---|"]
        for name, run in sorted(self.runs.items(), key=lambda item: -item[1].runs):
            if run.runs:
                lines.append(f"| `{name}` | {run.runs} | {run.time_ns / run.runs:.0f} |")
        lines += ["", *(f"- not on this kernel: {way}: {why}" for way, why in self.missing.items())]
        bytes_of = ", ".join(f"`{symbol}` {first_instruction(libcuda, symbol)}" for symbol in _FUNCTIONS)
        batches = len(self.samples["async", _OFF])
        return [*lines, f"- first bytes: {bytes_of}", f"- Linux {platform.release()}, {batches} batches of 64 a way"]


def main() -> int:
    """Measure and write DIR/floor.md and DIR/floor.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libcuda", type=Path, help="default: the driver's")
    parser.add_argument("--libcudart", type=Path, help="default: the first under /usr/local/cuda and /usr/lib")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batches", type=int, default=BATCHES)
    arguments = parser.parse_args()
    driver, runtime = arguments.libcuda or find_driver(), arguments.libcudart or find_runtime()
    if driver is None or runtime is None:
        parser.error("libcuda or libcudart was not found: name them with --libcuda and --libcudart")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "floor.jsonl").open("w") as file:

        def raw(**words: Any) -> None:
            file.write(json.dumps(words) + "\n")

        report = measure((driver.resolve(), runtime.resolve()), arguments.rounds, arguments.batches, raw)
    lines = report.lines(driver.resolve())
    (arguments.out / "floor.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
