# SPDX-License-Identifier: Apache-2.0
"""What containers and devices held a while ago: one sample for each snapshot, kept while the monitor runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from convgpu.core.status import Snapshot

SAMPLES_KEPT: Final = 600
"""The widest graph takes two for each of its columns."""
_NOTHING: Final[Sequence[int | None]] = ()
_Used: TypeAlias = dict[tuple[str | None, str], deque[int | None]]


class History:
    """Samples by container and device, or by device alone (container None); None is a sample that is not known."""

    def __init__(self, used: _Used | None = None, times_s: deque[float] | None = None) -> None:
        self._used: _Used = {} if used is None else used
        self._times_s: deque[float] = deque(maxlen=SAMPLES_KEPT) if times_s is None else times_s

    def take(self, snapshot: Snapshot, now_s: float) -> None:
        """Add a sample of everything; what is not there any more is forgotten."""
        before, self._used = self._used, {}
        for gpu in snapshot.gpus:
            self._add(before, (None, gpu.uuid), gpu.used_bytes)
        for container in snapshot.containers:
            for device in container.devices:
                self._add(before, (container.container_id, device.uuid), device.used_bytes)
        self._times_s.append(now_s)

    def _add(self, before: _Used, key: tuple[str | None, str], used: int | None) -> None:
        samples = before.get(key)
        if samples is None:
            samples = deque(maxlen=SAMPLES_KEPT)
        samples.append(used)
        self._used[key] = samples

    def used_bytes(self, container_id: str | None, uuid: str) -> Sequence[int | None]:
        """Return the samples of a container on a device, or of a device (None), oldest first."""
        return self._used.get((container_id, uuid), _NOTHING)

    def span_s(self, samples: int) -> float:
        """Return the time from the first of so many last samples to the last one, in seconds."""
        first = max(0, len(self._times_s) - samples)
        return self._times_s[-1] - self._times_s[first] if first < len(self._times_s) else 0.0

    def copy(self) -> History:
        """Return one that stays as it is now."""
        return History({key: samples.copy() for key, samples in self._used.items()}, self._times_s.copy())
