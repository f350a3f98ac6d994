# SPDX-License-Identifier: Apache-2.0
"""What an operator can set when the daemon starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from convgpu.core.bypass import DEFAULT_MAX_BYPASS
from convgpu.paths import DEFAULT_LOG_DIR, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, RunPaths

ALL_DEVICES: Final = "*"
PROBE_CHOICES: Final = ("all", "physical", "off")
FAIL_CHOICES: Final = ("closed", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """Settings of one daemon.

    Attributes:
        capacities: Bytes that may be assigned on a device, keyed by UUID, by NVML index as text, or `*` for all; a
            device that is not named has what NVML reports as total, minus what is in use by others, minus the reserve.
        reserve_bytes: Bytes a device keeps free for what ConvGPU does not charge.
        default_limit_bytes: Limit of a container without a label; None: the device's capacity, nothing guaranteed.
        deny_unlabelled: A container without a label may not allocate at all.
        fail_policy: What guarded processes do while no daemon answers: `closed`, they wait for one; `open`, they take
            memory unasked, which the next daemon finds in their pages.
        probes: `all`, `physical` (the system-call tracepoints only) or `off`.
        interval_s: Seconds between two reconciliations.
        simulated: The devices are those of the simulated GPU.
    """

    run_dir: Path = DEFAULT_RUN_DIR
    state_dir: Path = DEFAULT_STATE_DIR
    log_dir: Path = DEFAULT_LOG_DIR
    capacities: dict[str, int] = field(default_factory=dict)
    reserve_bytes: int = 0
    algorithm: str = "fifo"
    max_bypass: int = DEFAULT_MAX_BYPASS
    default_limit_bytes: int | None = None
    deny_unlabelled: bool = False
    fail_policy: str = "closed"
    probes: str = "all"
    interval_s: float = 1.0
    simulated: bool = False

    @property
    def paths(self) -> RunPaths:
        """The files of the run folder."""
        return RunPaths(self.run_dir)
