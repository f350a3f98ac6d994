# SPDX-License-Identifier: Apache-2.0
"""The ring buffer of the eBPF programs, and the end of processes."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any, Final

from convgpu.sources.bpf_ledger import BpfLedger
from convgpu.sources.bpf_source import BpfSource
from convgpu.sources.bpf_table import Layout
from convgpu.sources.witness import UNKNOWN_DEVICE, WitnessEvent

DRAIN_LIMIT: Final = 65536
"""Events that one `drain` returns at most, so that a flood of them cannot hold its caller."""

_OVER: Final = (b"Z", b"X")
"""States in /proc/PID/stat of a thread that runs no more: zombie, dead."""
_LOOK_S: Final = 5.0
"""Between two looks for processes whose end was not told: the event was lost, or came before their first allocation."""


class BpfEvents:
    """What happened since the last look.

    Args:
        bpf: The compiled module, a `bcc.BPF`.
        source: Its text, for the words.
        ledger: Its maps, for what the ring lost.
        proc: Where procfs is mounted.
    """

    def __init__(self, bpf: Any, source: BpfSource, ledger: BpfLedger, proc: Path) -> None:
        self._bpf = bpf
        self._source = source
        self._ledger = ledger
        self._proc = proc
        self._records: list[bytes] = []
        ring = bpf[b"events"]
        ring.open_ring_buffer(self._on_record)
        # bcc describes the record's structure when it is asked to look at one.
        self._layout = Layout(type(ring.event(ctypes.create_string_buffer(256))))
        self._ring_full_seen = 0
        self._next_look = time.monotonic() + _LOOK_S
        self._ending: dict[int, WitnessEvent] = {}
        self._ended: set[int] = set()

    def _on_record(self, _context: Any, data: Any, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return -1 if len(self._records) >= DRAIN_LIMIT else 0  # a negative result ends the round

    def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call, oldest first.

        An `exit` is told once, when /proc agrees that the last thread is gone: then the driver has freed what the
        process held. Where events were lost, and now and then, processes that are gone are looked for.
        """
        self._bpf.ring_buffer_consume()
        records, self._records = self._records, []
        events = []
        for record in records:
            event = self._event(record)
            if event.kind != "exit":
                events.append(event)
            elif event.pid not in self._ended:
                self._ending.setdefault(event.pid, event)
        ring_full = self._ledger.loss("ring_full")
        now = time.monotonic()
        if ring_full != self._ring_full_seen or now >= self._next_look:
            self._ring_full_seen = ring_full
            self._next_look = now + _LOOK_S
            self._look_for_ended()
        for pid in [pid for pid in self._ending if has_ended(pid, self._proc)]:
            self._ended.add(pid)
            events.append(self._ending.pop(pid))
        return events

    def forget(self, pids: frozenset[int]) -> None:
        """Drop what is remembered of processes that have ended."""
        self._ended -= pids
        for pid in pids:
            self._ending.pop(pid, None)

    def _event(self, record: bytes) -> WitnessEvent:
        values = dict(zip(self._layout.names, self._layout.unpack_from(record), strict=True))
        return WitnessEvent(
            mono_ns=values["mono_ns"],
            cgroup_id=values["cgroup_id"],
            pid=values["pid"],
            tid=values["tid"],
            comm=values["comm"].partition(b"\0")[0].decode(errors="replace"),
            source=self._source.sources[values["source"]],
            kind=self._source.kinds[values["kind"]],
            size_bytes=values["size_bytes"],
            latency_ns=values["latency_ns"],
            device_instance=values["device"],
        )

    def _look_for_ended(self) -> None:
        for pid, cgroup_id in self._ledger.processes().items():
            if pid in self._ended or pid in self._ending or not has_ended(pid, self._proc):
                continue
            self._ending[pid] = WitnessEvent(
                mono_ns=time.monotonic_ns(),
                cgroup_id=cgroup_id,
                pid=pid,
                tid=pid,
                comm="",
                source="process",
                kind="exit",
                size_bytes=0,
                latency_ns=0,
                device_instance=UNKNOWN_DEVICE,
            )


def has_ended(pid: int, proc: Path = Path("/proc")) -> bool:
    """Tell whether no thread of a process runs any more: it is gone, or waits for its parent to take notice."""
    try:
        for task in (proc / str(pid) / "task").iterdir():
            state = (task / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if state not in _OVER:
                return False
    except (FileNotFoundError, ProcessLookupError):
        return not (proc / str(pid)).exists()  # else a thread ended while we looked: ask again
    return True
