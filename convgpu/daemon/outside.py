# SPDX-License-Identifier: Apache-2.0
"""What is held on a device outside ConvGPU, measured with noise, and made steady enough to act on.

Two mistakes are possible. To count too little promises memory that is not there: the driver then refuses what was
granted. To count too much takes shares away that containers had. So a change counts only when it lasts, and what counts
is rounded up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from convgpu.core.units import MIB
from convgpu.sources.nvml import GpuReading

STEP_BYTES: Final = 32 * MIB
"""What is held outside is rounded up to this. The driver's own base drifts by 3 MiB, and every process adds some 5 MiB
that NVML shows for the device and for no process (measured on an H200): a few of them come and go within one step."""
_SLACK_BYTES: Final = 2 * STEP_BYTES
"""It has to fall by so much before it counts: what pushed it over a step does not make it go back and forth."""
LASTING_NS: Final = 2_000_000_000
"""A change must last so long. NVML's figure for the device, its list of processes and the credit pages are read one
after another, and a process that was killed may take a second to give back what it held."""
_FEWEST_READINGS: Final = 3


@dataclass(frozen=True, slots=True)
class Holding:
    """What a guarded process holds on one device by its credit page. NVML shows managed memory with no process.

    Attributes:
        granted_bytes: What it was granted: the most of it that is set aside for it; None: not known.
    """

    pid: int
    used_bytes: int
    managed_bytes: int
    granted_bytes: int | None = None


def outside_bytes(reading: GpuReading, guarded: Iterable[Holding]) -> int | None:
    """Return what is in use on a device and not held by a guarded process; None: NVML does not say.

    NVML's figure for a process counts where it has one; the page's where that is more, because it is the newer one:
    what has been taken between the two readings is not outside. What goes beyond all that the process was granted is:
    it was taken past the wrapper, and nobody has set it aside.
    """
    if reading.used_bytes is None:
        return None
    ours_bytes = 0
    for holding in guarded:
        by_nvml_bytes = reading.process_bytes.get(holding.pid) or 0
        its_bytes = max(by_nvml_bytes, holding.used_bytes) + holding.managed_bytes
        ours_bytes += its_bytes if holding.granted_bytes is None else min(its_bytes, holding.granted_bytes)
    return max(0, reading.used_bytes - ours_bytes)


def rounded_up(size_bytes: int) -> int:
    """Return the next whole step."""
    return -(-size_bytes // STEP_BYTES) * STEP_BYTES


class Outside:
    """One device's figure.

    More counts when every reading of the last two seconds shows more: by as much as the smallest of them. Less counts
    when every reading shows less, by more than the slack: down to the largest of them.

    Args:
        first_bytes: What is held now.

    Attributes:
        in_force_bytes: What counts, a whole number of steps.
    """

    def __init__(self, first_bytes: int) -> None:
        self.in_force_bytes = rounded_up(first_bytes)
        self._readings: deque[tuple[int, int]] = deque()

    def note(self, size_bytes: int, now_ns: int) -> None:
        """Take a reading in."""
        readings = self._readings
        readings.append((now_ns, size_bytes))
        while len(readings) > _FEWEST_READINGS and now_ns - readings[1][0] >= LASTING_NS:
            readings.popleft()
        if len(readings) < _FEWEST_READINGS or now_ns - readings[0][0] < LASTING_NS:
            return
        smallest_bytes = min(size for _, size in readings)
        largest_bytes = max(size for _, size in readings)
        if smallest_bytes > self.in_force_bytes:
            self.in_force_bytes = rounded_up(smallest_bytes)
        elif largest_bytes < self.in_force_bytes - _SLACK_BYTES:
            self.in_force_bytes = rounded_up(largest_bytes)
