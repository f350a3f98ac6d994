# SPDX-License-Identifier: Apache-2.0
"""The largest total that can be held under a limit."""

from __future__ import annotations

from typing import Final

from bench import Bench, settled

MIB: Final = 1 << 20
_GRANULE: Final = 2 * MIB
_RACING: Final = 8
_ALONE_LIMITS: Final = (1024 * MIB, 1537 * MIB, 2050 * MIB + 4096)
_RACING_LIMITS: Final = (5 * 1024 * MIB, 5121 * MIB + 4096)
"""Whole granules, half a granule more, and a page more: the largest total is below all of them by less than one."""


def measure(bench: Bench) -> None:
    """Fill limits, alone and with racing processes; ask the ledger and NVML what is held then."""
    with bench.daemon() as stage:
        for processes, limits in ((1, _ALONE_LIMITS), (_RACING, _RACING_LIMITS)):
            for limit_bytes in limits:
                arguments = (str(processes), str(_GRANULE))
                with bench.rig.wrapped("fill", str(limit_bytes), *arguments) as session:
                    line = session.read()
                    name = session.name

                    def read(name: str = name) -> tuple[int, int]:
                        device = stage.device(name)
                        pids = [process["pid"] for process in device["processes"]]
                        seen = bench.gpu.process_bytes()
                        return device["used_bytes"], sum(seen.get(pid) or 0 for pid in pids)

                    used_bytes, nvml_bytes = settled(read, lambda found: found[0] == found[1])
                bench.raw.add(
                    "limit", processes=processes, limit_bytes=limit_bytes, used_bytes=used_bytes, nvml_bytes=nvml_bytes
                )
                who = "alone" if processes == 1 else f"{processes} processes racing"
                bench.row(
                    f"largest total under {limit_bytes} bytes, {who}",
                    f"ledger {used_bytes}, NVML {nvml_bytes}: {(limit_bytes - used_bytes) / MIB:.3f} MiB below the "
                    f"limit ({line.split()[1]} allocations)",
                    "L - 2 MiB to L",
                    holds=used_bytes == nvml_bytes and limit_bytes - _GRANULE <= used_bytes <= limit_bytes,
                )
