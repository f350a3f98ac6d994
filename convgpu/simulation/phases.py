# SPDX-License-Identifier: Apache-2.0
"""What a program does with memory, as a person writes it: `+1GiB 10s +3GiB 20s -3GiB 5s`.

`+SIZE` allocates, `-SIZE` frees, a duration lets time pass; `@GPU` after a size names the device, else it is the first
of the container. What is written after an allocation happens when that is granted. At the end the program exits, and
all that it holds is free.
"""

from __future__ import annotations

from collections.abc import Sequence

from convgpu.core.durations import parse_duration
from convgpu.core.identity import GpuUuid
from convgpu.core.units import format_size, parse_size
from convgpu.errors import UsageError
from convgpu.simulation.workload import Ask, End, Release, Step

EXAMPLE = "+1GiB 10s +3GiB 20s -3GiB 5s"


def parse_phases(text: str, gpus: Sequence[GpuUuid]) -> tuple[Step, ...]:
    """Read phases.

    Args:
        text: As above.
        gpus: The container's devices.

    Raises:
        UsageError: Not phases, a device that the container does not have, or more is freed than was allocated.
    """
    builder = Phases()
    held = dict.fromkeys(gpus, 0)
    for word in text.split():
        sign, rest = word[0], word[1:]
        if sign not in "+-":
            builder.run(_duration(word))
            continue
        size, has_gpu, name = rest.partition("@")
        gpu = GpuUuid(name) if has_gpu else gpus[0]
        if gpu not in held:
            raise UsageError(f"'{word}': the container has no GPU '{name}'; it has {', '.join(gpus)}")
        size_bytes = parse_size(size)
        held[gpu] += size_bytes if sign == "+" else -size_bytes
        if held[gpu] < 0:
            raise UsageError(f"'{word}' frees {format_size(-held[gpu])} more than is allocated there")
        if sign == "+":
            builder.allocate(gpu, size_bytes)
        else:
            builder.free(gpu, size_bytes)
    return builder.end()


def _duration(word: str) -> int:
    try:
        duration_ns = parse_duration(word)
    except UsageError as error:
        raise UsageError(f"'{word}' is neither +SIZE nor -SIZE nor a duration; write phases like {EXAMPLE}") from error
    if duration_ns is None:
        raise UsageError(f"'{word}': a phase comes to an end; write phases like {EXAMPLE}")
    return duration_ns


class Phases:
    """Makes the steps of a program that does one thing after another."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._asks = 0
        self._since_answer_ns = 0
        self._after: tuple[int, ...] = ()

    def allocate(self, gpu: GpuUuid, size_bytes: int) -> None:
        """Ask for memory, and wait for the answer."""
        self._steps.append(Ask(self._since_answer_ns, gpu, size_bytes, self._after))
        self._after = (self._asks,)
        self._asks += 1
        self._since_answer_ns = 0

    def free(self, gpu: GpuUuid, size_bytes: int) -> None:
        """Give memory back."""
        self._steps.append(Release(self._since_answer_ns, gpu, size_bytes, self._after))
        self._after = ()

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        self._since_answer_ns += duration_ns

    def end(self) -> tuple[Step, ...]:
        """Exit; returns all steps."""
        return (*self._steps, End(self._since_answer_ns, self._after))
