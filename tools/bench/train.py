# SPDX-License-Identifier: Apache-2.0
"""What the witness's probes cost a step of training with PyTorch: no witness, its tracepoints, all probes, in turns.

    tools/bench/run --gpu real --out DIR --torch PYTHON --only train
    python3 tools/bench/train.py --out DIR --torch PYTHON        # no Docker, no daemon; root

Each model lives in one process (torch_train.py) from beginning to end, so nothing but the probes differs between the
modes; one of them trains while the others rest. A round is one turn of each mode, in an order that goes on from round
to round; what counts is the ratio within a round, since a GPU's clock drifts by more than is looked for here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from probes import Mode, watched

from convgpu.sources.libraries import driver_of, runtimes_of

if TYPE_CHECKING:
    from bench import Bench

ROUNDS: Final = 5
STEPS: Final = 100
WARMING: Final = 15
"""Steps that do not count: the GPU has rested while the witness was compiled."""
MOST_SLOWER: Final = 0.005
"""What a step may take longer with all probes."""
MODES: Final[tuple[Mode, ...]] = ("off", "physical", "all")
MODELS: Final = ("transformer", "resnet")
ALLOCATORS: Final = {"native": "", "cudaMallocAsync": "backend:cudaMallocAsync"}
"""PyTorch's own allocator asks CUDA only when it grows; with the other one, each tensor is a call that is watched."""
_PROGRAM: Final = Path(__file__).with_name("torch_train.py")


class Trainer:
    """The process that trains.

    Args:
        command: Program and arguments; it speaks as torch_train.py does.
        allocator: PYTORCH_CUDA_ALLOC_CONF, or nothing.
    """

    def __init__(self, command: list[str], allocator: str = "") -> None:
        environment = dict(os.environ) | ({"PYTORCH_CUDA_ALLOC_CONF": allocator} if allocator else {})
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self._process.pid
        self.parameters = int(self._line().removeprefix("ready "))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.communicate()

    def steps(self, count: int) -> list[int]:
        """Train so many steps; return the nanoseconds of each."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        times_ns = [int(word) for word in self._line().split()]
        if len(times_ns) != count:
            raise RuntimeError(f"{len(times_ns)} steps were timed of {count}")
        return times_ns

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"the training process ended with status {self._process.returncode}")
        return line.strip()


@dataclass
class Turns:
    """Step times of one model and allocator: for each mode a list of rounds, each a list of nanoseconds."""

    times_ns: dict[Mode, list[list[int]]] = field(default_factory=lambda: {mode: [] for mode in MODES})

    def median_ms(self, mode: Mode) -> float:
        """Return the median of all steps."""
        return statistics.median(step for turn in self.times_ns[mode] for step in turn) / 1e6

    def slower(self, mode: Mode) -> list[float]:
        """Return by how much the mode's median step was longer than that without a witness, of each round."""
        pairs = zip(self.times_ns[mode], self.times_ns["off"], strict=True)
        return [statistics.median(turn) / statistics.median(off) - 1 for turn, off in pairs]

    def is_within(self, most: float) -> bool:
        """Tell whether a step is not longer by more than this part of it, with all probes, in the median round."""
        return statistics.median(self.slower("all")) <= most

    def spread_text(self, mode: Mode) -> str:
        """Write the median of the rounds and their quartiles, in per cent."""
        low, middle, high = statistics.quantiles(self.slower(mode), n=4, method="inclusive")
        return f"{middle:+.2%} (quartiles {low:+.2%} to {high:+.2%})"


Watch = Callable[[Mode, list[int]], AbstractContextManager[object]]
Key = tuple[str, str]
"""Model and allocator."""


def take_turns(trainers: Mapping[Key, Trainer], rounds: int, steps: int, watch: Watch) -> dict[Key, Turns]:
    """Train in turns; the order of the modes moves on by one each round."""
    turns = {key: Turns() for key in trainers}
    pids = [trainer.pid for trainer in trainers.values()]
    for number in range(rounds):
        for index in range(len(MODES)):
            mode = MODES[(index + number) % len(MODES)]
            with watch(mode, pids):
                for key, trainer in trainers.items():
                    trainer.steps(WARMING)
                    turns[key].times_ns[mode].append(trainer.steps(steps))
    return turns


def watch_processes(mode: Mode, pids: list[int]) -> AbstractContextManager[object]:
    """Have a witness on what processes have mapped; a runtime that is linked in and stripped cannot be watched.

    Raises:
        RuntimeError: One has no libcuda: PyTorch without CUDA.
    """
    drivers = [driver_of(pid) for pid in pids]
    if not all(drivers):
        raise RuntimeError("a training process has mapped no libcuda: is this PyTorch built for CUDA?")
    return watched(mode, (drivers[0][0], *(path for pid in pids for path in runtimes_of(pid)[:1])))


def run_all(python: str, rounds: int, steps: int, raw: Callable[..., None]) -> dict[Key, Turns]:
    """Measure each model with each allocator."""
    with ExitStack() as stack:
        trainers = {
            (model, allocator): stack.enter_context(Trainer([python, str(_PROGRAM), "--model", model], setting))
            for model in MODELS
            for allocator, setting in ALLOCATORS.items()
        }
        turns = take_turns(trainers, rounds, steps, watch_processes)
        for (model, allocator), trainer in trainers.items():
            for mode, times_ns in turns[model, allocator].times_ns.items():
                raw(
                    model=model, allocator=allocator, parameters=trainer.parameters,
                    is_runtime_seen=bool(runtimes_of(trainer.pid)), mode=mode, times_ns=times_ns,
                )  # fmt: skip
    return turns


def lines(results: Mapping[Key, Turns]) -> list[str]:
    """Return the table."""
    table = [
        "| model | allocator | off, ms a step | physical | all | physical - off, % | all - off, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, allocator), turns in results.items():
        medians = " | ".join(f"{turns.median_ms(mode):.3f}" for mode in MODES)
        table.append(
            f"| {model} | {allocator} | {medians} | {turns.spread_text('physical')} | {turns.spread_text('all')} |"
        )
    return table


def measure(bench: Bench) -> None:
    """Measure on the GPU of the benchmark."""
    if bench.torch is None or not bench.gpu.real:
        bench.notes.append("train: needs `--gpu real` and `--torch PYTHON`.")
        return
    results = run_all(bench.torch, ROUNDS, STEPS, lambda **words: bench.raw.add("train", **words))
    for (model, allocator), turns in results.items():
        what, found = f"training step, {model}, {allocator} allocator: all probes", turns.spread_text("all")
        if allocator == "native":
            bench.row(what, found, f"at most {MOST_SLOWER:+.1%}", holds=turns.is_within(MOST_SLOWER))
        else:
            bench.row(what, found)
    bench.notes += [f"Training, {ROUNDS} rounds of {STEPS} steps a mode:", *lines(results)]


def main() -> int:
    """Measure without Docker and daemon; exit status 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="an interpreter with PyTorch")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each round and mode (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.steps < 1:
        parser.error("a spread needs two rounds, and a round one step")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "train.jsonl").open("w") as file:

        def raw(**words: Any) -> None:
            file.write(json.dumps(words) + "\n")

        results = run_all(arguments.torch, arguments.rounds, arguments.steps, raw)
    table = [*lines(results), "", f"{arguments.rounds} rounds of {arguments.steps} steps a mode."]
    print("\n".join(table))
    (arguments.out / "train.md").write_text("\n".join(table) + "\n")
    judged = [turns for (_, allocator), turns in results.items() if allocator == "native"]
    return 0 if all(turns.is_within(MOST_SLOWER) for turns in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
