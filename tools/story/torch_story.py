# SPDX-License-Identifier: Apache-2.0
"""What story.c does, as a PyTorch process: allocate, hold, report. Usage: torch_story.py NAME SIZE_MIB WAIT_FILE."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

_POLL_S = 0.01


def report(name: str, step: str, **words: object) -> None:
    """Print one line in the form of story.c."""
    text = " ".join(f"{key}={value}" for key, value in words.items())
    print(f"{time.monotonic_ns() // 1_000_000} name={name} step={step} {text}", flush=True)


def main() -> int:
    """Allocate, work a little on the GPU, wait for the file, end."""
    name, size_mib, wait_file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    # The context alone, so that the line after it times one allocation.
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    report(name, "context", torch=torch.__version__)
    began = time.monotonic()
    tensor = torch.empty(size_mib << 20, dtype=torch.uint8, device="cuda")
    took_ms = (time.monotonic() - began) * 1000
    report(name, "alloc", size_bytes=tensor.numel(), code="cudaSuccess", took_ms=f"{took_ms:.3f}")
    tensor.fill_(7)
    total = int(tensor[:: 1 << 20].sum(dtype=torch.int64))
    report(name, "compute", correct=total == 7 * size_mib)
    try:
        torch.empty(64 << 30, dtype=torch.uint8, device="cuda")
    except torch.cuda.OutOfMemoryError:
        report(name, "try", size_bytes=64 << 30, code="cudaErrorMemoryAllocation")
    while not wait_file.exists():
        time.sleep(_POLL_S)
    report(name, "exit", status=0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
