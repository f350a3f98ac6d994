# SPDX-License-Identifier: Apache-2.0
"""What ledger_steps.cu does, with PyTorch: a step, a line, a wait. The allocator is chosen by its environment."""

from __future__ import annotations

import sys

import torch

_TRAINING_STEPS = 20


def step(name: str) -> None:
    """Say that a step is done and wait until somebody has looked."""
    torch.cuda.synchronize()
    print(f"step {name}", flush=True)
    if not sys.stdin.readline():
        sys.exit(0)


def train() -> None:
    """Some steps of a small convolutional network."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 3, padding=1),
        torch.nn.AdaptiveAvgPool2d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * 64, 100),
    ).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    for number in range(1, _TRAINING_STEPS + 1):
        images = torch.randn(16 + number, 3, 128, 128, device="cuda")  # a new shape each step: the allocator has work
        loss = model(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number in (1, 2, _TRAINING_STEPS):
            step(f"training step {number}")


def main() -> None:
    """Go through the steps."""
    torch.zeros(1, device="cuda")
    step("context")
    tensor = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    step("1 GiB tensor")
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    product = matrix @ matrix
    step("8192^2 bf16 matmul")
    train()
    del tensor, matrix, product
    torch.cuda.empty_cache()
    step("emptied")
    print("end", flush=True)


if __name__ == "__main__":
    main()
