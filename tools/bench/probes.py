# SPDX-License-Identifier: Apache-2.0
"""What the witness's probes cost a call: the same process with no witness, its tracepoints only, and all probes.

    tools/bench/run --gpu real --out DIR --only probes
    python tools/bench/probes.py --libcuda PATH --libcudart PATH --out DIR       # no Docker, no daemon; root

The modes take turns while one process lives, so nothing but the probes differs between them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from convgpu.native import native_dir
from convgpu.sources import simgpu
from convgpu.sources.ebpf import BpfWitness
from convgpu.sources.elf import find_functions
from convgpu.sources.libraries import find_driver

if TYPE_CHECKING:
    from bench import Bench

Mode = Literal["off", "physical", "all"]

ROUNDS: Final = 5
BATCHES: Final = 40
_WARMING: Final = 10
"""Batches that do not count: the processor has slept while the witness was compiled."""
ASYNC_MOST_NS: Final = 2500
"""What a warm cudaMallocAsync with its cudaFreeAsync may take longer with all probes."""
PHYSICAL_NOISE: Final = 0.05
"""Tracepoints cost these calls nothing: what is measured is the difference of two runs of the same thing."""

PAIRS: Final = {
    "linear": ("cuMemAlloc_v2", "cuMemFree_v2"),
    "managed": ("cuMemAllocManaged", "cuMemFree_v2"),
    "async": ("cuMemAllocAsync", "cuMemFreeAsync"),
    "handle": ("cuMemCreate", "cuMemRelease"),
    "array": ("cuArray3DCreate_v2", "cuArrayDestroy"),
    "host": ("cuMemHostAlloc", "cuMemFreeHost"),
    "runtime-linear": ("cudaMalloc", "cudaFree"),
    "runtime-async": ("cudaMallocAsync", "cudaFreeAsync"),
    "runtime-managed": ("cudaMallocManaged", "cudaFree"),
}
_SOURCE: Final = Path(__file__).with_name("probes.c")
_RUNTIMES: Final = ("usr/local/cuda*/lib64/libcudart.so", "usr/lib/*-linux-gnu/libcudart.so*")

Samples = dict[tuple[str, Mode], list[tuple[int, int]]]


@contextmanager
def watched(mode: Mode, libraries: Sequence[Path]) -> Iterator[BpfWitness | None]:
    """Have a witness of one mode on a libcuda and on the libcudarts that follow it; for `off` none."""
    if mode == "off":
        yield None
        return
    witness = BpfWitness(native_dir() / "bpf", probes=mode)
    witness.start()
    try:
        if mode == "all":
            for number, path in enumerate(libraries):
                assert witness.attach_library(str(path), "libcudart" if number else "libcuda"), witness.status().missing
        yield witness
        if lost := witness.status().lost.get("ring_full"):
            print(f"ring_full: {lost}", file=sys.stderr)
    finally:
        witness.close()


class Talker:
    """The process that makes the calls (probes.c), compiled and started.

    Args:
        libraries: libcuda and libcudart, which it opens.
    """

    def __init__(self, libraries: tuple[Path, Path]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "probes"
            subprocess.run(["cc", "-O2", "-o", str(program), str(_SOURCE), "-ldl"], check=True)
            self._process = subprocess.Popen(
                [str(program), *map(str, libraries)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

    @property
    def pid(self) -> int:
        """The process that makes the calls."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, pair: str, batches: int) -> list[tuple[int, int]]:
        """Return nanoseconds of a call that takes and of one that gives, for each batch."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(f"{pair} {batches}\n")
        to.flush()
        numbers = [int(word) for word in back.readline().split()]
        if not numbers:
            raise RuntimeError(f"the measured process ended with status {self._process.wait()}")
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def sample(libraries: tuple[Path, Path], rounds: int, batches: int, raw: Callable[..., None]) -> Samples:
    """Take turns: no witness, tracepoints, all probes; nanoseconds of a call that takes and one that gives."""
    samples: Samples = {}
    modes: tuple[Mode, ...] = ("off", "physical", "all")
    with Talker(libraries) as talker:
        for turn in range(rounds):
            for mode in modes:
                with watched(mode, libraries):
                    for pair in PAIRS:
                        talker.ask(pair, _WARMING)
                        found = talker.ask(pair, batches)
                        samples.setdefault((pair, mode), []).extend(found)
                        take_ns, give_ns = zip(*found, strict=True)
                        raw(pair=pair, mode=mode, turn=turn, take_ns=take_ns, give_ns=give_ns)
    return samples


def _median(samples: Samples, pair: str, mode: Mode, index: int) -> float:
    return statistics.median(each[index] for each in samples[pair, mode])


def first_instruction(library: Path, symbol: str) -> str:
    """Return the first bytes of a function: what decides whether the kernel emulates it or has to single-step."""
    with library.open("rb") as file:
        function = find_functions(file.fileno(), (symbol,)).get(symbol)
        if function is None:
            return "?"
        file.seek(function.offset)
        return file.read(4).hex(" ")


def table(samples: Samples, libraries: tuple[Path, Path]) -> list[str]:
    """Return the table: a line for each function."""
    lines = [
        "| function | first bytes | off, us | physical | all | all - off | probe hits in it |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair, symbols in PAIRS.items():
        for index, symbol in enumerate(symbols):
            off, physical, every = (_median(samples, pair, mode, index) for mode in ("off", "physical", "all"))
            library = libraries[symbol.startswith("cuda")]
            hits = 4 if symbol.startswith("cuda") and "Async" not in symbol else 2
            lines.append(
                f"| `{symbol}` ({pair}) | {first_instruction(library, symbol)} | {off / 1000:.2f} | "
                f"{physical / 1000:.2f} | {every / 1000:.2f} | {(every - off) / 1000:+.2f} | {hits} |"
            )
    return lines


def added_ns(samples: Samples, pair: str, mode: Mode) -> float:
    """Return how much longer a pair takes in a mode than without a witness."""
    return sum(_median(samples, pair, mode, index) - _median(samples, pair, "off", index) for index in (0, 1))


def find_runtime() -> Path | None:
    """Return a libcudart of this machine."""
    found = [path for pattern in _RUNTIMES for path in sorted(Path("/").glob(pattern))]
    return found[0].resolve() if found else None


def measure(bench: Bench) -> None:
    """Measure on the GPU of the benchmark."""
    if bench.gpu.real:
        driver, runtime = find_driver(), find_runtime()
    else:
        driver, runtime = simgpu.library_file("libcuda.so.1"), simgpu.library_file("libcudart.so.13")
    if driver is None or runtime is None:
        bench.notes.append("probes: no libcudart was found on this machine.")
        return
    libraries = (driver, runtime)
    samples = sample(libraries, ROUNDS, BATCHES, lambda **words: bench.raw.add("probes", **words))
    bench.notes += ["Probes, microseconds a call:", *table(samples, libraries)]
    added = added_ns(samples, "runtime-async", "all")
    bench.row(
        "probes: a warm cudaMallocAsync and cudaFreeAsync, all probes",
        f"+{added / 1000:.2f} us",
        f"at most +{ASYNC_MOST_NS / 1000} us",
        holds=added <= ASYNC_MOST_NS,
    )
    whole_ns = sum(_median(samples, "runtime-async", "off", index) for index in (0, 1))
    nothing = added_ns(samples, "runtime-async", "physical")
    bench.row(
        "probes: the same, tracepoints only",
        f"{nothing / 1000:+.2f} us of {whole_ns / 1000:.2f}",
        f"nothing (within {PHYSICAL_NOISE:.0%})",
        holds=nothing <= PHYSICAL_NOISE * whole_ns,
    )


def main() -> int:
    """Measure without Docker and daemon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libcuda", type=Path, required=True)
    parser.add_argument("--libcudart", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batches", type=int, default=BATCHES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    libraries = (arguments.libcuda.resolve(), arguments.libcudart.resolve())
    with (arguments.out / "samples.jsonl").open("w") as file:

        def raw(**words: Any) -> None:
            file.write(json.dumps(words) + "\n")

        samples = sample(libraries, arguments.rounds, arguments.batches, raw)
    lines = table(samples, libraries)
    all_us, physical_us = (added_ns(samples, "runtime-async", mode) / 1000 for mode in ("all", "physical"))
    closing = (
        f"A warm cudaMallocAsync with cudaFreeAsync: {all_us:+.2f} us with all probes, {physical_us:+.2f} us with "
    )
    lines += [
        "",
        f"{closing}tracepoints only. Linux {platform.release()}, {len(samples['linear', 'off'])} batches of 64.",
    ]
    (arguments.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
