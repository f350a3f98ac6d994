# SPDX-License-Identifier: Apache-2.0
"""Record a lab's day in a minute: containers of four kinds come to one simulated GPU of 10 GiB, and the log is kept.

    CONVGPU_RUN_DIR=/run/convgpu-lab python3 tools/bench/lab.py OUT

OUT gets the log as `run.jsonl.gz`, and `audit.key.pub`, with whose private key its seals are signed. `docs/analysis.md`
is made of such a recording. As root, with ConvGPU on the PATH and Docker running.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from convgpu.audit.files import log_files
from convgpu.testing.stage import (
    Stage,
    StageDaemon,
    make_image,
    output_of,
    remove_containers,
    simulated_gpu,
    wait_until,
)

SEED: Final = 7
BETWEEN_S: Final = 0.8
"""From one container to the next: more comes than the GPU can hold at one time."""
COUNT: Final = 24


class Kind(NamedTuple):
    """One kind of container: its limit, more options of `convgpu run`, and what its program does."""

    name: str
    limit: str
    options: tuple[str, ...]
    steps: tuple[str, ...]


KINDS: Final = (
    # Grows step by step to 3.4 GiB beside its context, and holds it: near its limit for most of the time.
    Kind(
        "train", "4GiB", ("--guarantee", "1536MiB"),
        ("alloc=1GiB", "hold={}", "alloc=1GiB", "hold={}", "alloc=1GiB", "hold={}", "alloc=384MiB", "hold={}"),
    ),
    # Takes what it needs at once, and is done soon.
    Kind("infer", "2GiB", (), ("alloc=1GiB", "hold={}")),
    # Asks for more than it may have, is denied, and goes on with less.
    Kind("notebook", "3GiB", ("--guarantee", "1GiB"), ("alloc=512MiB", "hold={}", "try=4GiB", "try=1GiB", "hold={}")),
    # Would rather be told no than wait for more than a second.
    Kind("hasty", "3GiB", ("--guarantee", "512MiB", "--wait", "1s"), ("try=2GiB", "hold={}", "free", "hold={}")),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as kept, simulated_gpu(Path(kept) / "gpu") as docker:
        folder = Path(kept)
        output_of("convgpu", "audit", "keygen", str(folder / "audit.key"))
        daemon = StageDaemon(
            folder,
            ["--simulated", "--interval", "100ms", "--audit-seal-interval", "5s", "--audit-key", f"{folder}/audit.key"],
        )
        make_image()
        daemon.start()
        stage = Stage(daemon, folder / "stage", docker)
        stage.folder.mkdir()
        try:
            play(stage, chance)
        finally:
            daemon.stop()
            remove_containers(tuple(stage.names))
        with gzip.GzipFile(out / "run.jsonl.gz", "wb", mtime=0) as file:
            for path in log_files(daemon.log):
                file.write(path.read_bytes())
        shutil.copy(folder / "audit.key.pub", out / "audit.key.pub")
    return 0


def play(stage: Stage, chance: random.Random) -> None:
    wait_until("the witness is there", lambda: "witness attached" in stage.daemon.log.read_text(), timeout_s=60)
    output_of("convgpu", "audit", "annotate", f"begin: {COUNT} containers, one every {BETWEEN_S} s, seed {SEED}")
    started = []
    for number in range(COUNT):
        kind = KINDS[number % len(KINDS)] if number < len(KINDS) else chance.choice(KINDS)
        steps = [step.format(round(chance.uniform(1.5, 6.0), 2)) for step in kind.steps]
        name = f"{kind.name}-{number + 1:02d}"
        started.append(stage.story(name, kind.limit, *steps, "exit=0", options=kind.options))
        print(f"{name}: {' '.join(steps)}", flush=True)
        if number == COUNT // 2:
            output_of("convgpu", "audit", "annotate", "half of them have come")
        time.sleep(BETWEEN_S)
    for container in started:
        print(f"{container.name}: status {container.exit_code()}", flush=True)
    output_of("convgpu", "audit", "annotate", "end")
    time.sleep(1)  # the daemon notices the last end


if __name__ == "__main__":
    os.environ.setdefault("CONVGPU_RUN_DIR", "/run/convgpu-lab")
    sys.exit(main())
