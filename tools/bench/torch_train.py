# SPDX-License-Identifier: Apache-2.0
"""The process of train.py: steps of training with PyTorch, timed. Runs under any Python that has torch and a GPU.

    torch_train.py --model transformer|resnet [--tiny]

prints `ready PARAMETERS` and then answers each line `STEPS` on standard input with the nanoseconds of so many steps.
Each is timed from a device at rest to a device at rest. Lengths and image sizes vary from step to step, so the
allocator has the work that it has in practice; no data are needed: inputs are random, and so are the weights.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions with a way around them, as in a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of images."""
        return nn.functional.relu(self.body(images) + self.around(images))


def resnet(width: int, classes: int) -> nn.Module:
    """Return a ResNet of 18 layers' shape."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = width
    for stage in range(4):
        outputs = width << stage
        layers += [Block(channels, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Transformer(nn.Module):
    """An encoder that names each word's successor."""

    def __init__(self, words: int, width: int, heads: int, layers: int, longest: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.zeros(longest, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return how likely each word is at each place."""
        length = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        return self.head(self.encoder(self.words(text) + self.places[:length], mask=mask, is_causal=True))


Inputs = Iterator[tuple[torch.Tensor, torch.Tensor]]


def texts(words: int, batch: int, longest: int, device: str) -> Inputs:
    """Yield random texts, four lengths in turns, each with the words that follow."""
    for length in itertools.cycle((longest, longest // 2, longest * 3 // 4, longest)):
        text = torch.randint(words, (batch, length + 1), device=device)
        yield text[:, :-1], text[:, 1:].flatten()


def pictures(classes: int, batch: int, size: int, device: str) -> Inputs:
    """Yield random pictures, three sizes in turns, each batch with its classes."""
    for pixels in itertools.cycle((size, size * 3 // 4, size * 7 // 8)):
        yield torch.randn(batch, 3, pixels, pixels, device=device), torch.randint(classes, (batch,), device=device)


def make(name: str, device: str, *, tiny: bool) -> tuple[nn.Module, Inputs]:
    """Return a model and its inputs."""
    if name == "resnet":
        width, batch, size = (8, 2, 64) if tiny else (64, 64, 224)
        return resnet(width, 1000), pictures(1000, batch, size, device)
    words, width, heads, layers, batch, longest = (64, 32, 2, 1, 2, 16) if tiny else (16384, 768, 12, 8, 16, 512)
    return Transformer(words, width, heads, layers, longest), texts(words, batch, longest, device)


def stepper(model: nn.Module, inputs: Inputs, device: str) -> Callable[[], None]:
    """Return what makes one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        given, wanted = next(inputs)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            found = model(given)
            loss = nn.functional.cross_entropy(found.reshape(-1, found.shape[-1]), wanted)
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("transformer", "resnet"), required=True)
    parser.add_argument("--tiny", action="store_true", help="on the processor and small: tries the program")
    arguments = parser.parse_args()
    device = "cpu" if arguments.tiny else "cuda"
    torch.manual_seed(20261128)
    model, inputs = make(arguments.model, device, tiny=arguments.tiny)
    model.to(device).train()
    step = stepper(model, inputs, device)

    def rest() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    rest()
    print(f"ready {sum(weights.numel() for weights in model.parameters())}", flush=True)
    for line in sys.stdin:
        times_ns = []
        for _ in range(int(line)):
            began_ns = time.perf_counter_ns()
            step()
            rest()
            times_ns.append(time.perf_counter_ns() - began_ns)
        print(*times_ns, flush=True)


if __name__ == "__main__":
    main()
