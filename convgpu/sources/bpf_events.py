# SPDX-License-Identifier: Apache-2.0
"""The ring buffer of the eBPF programs, and the end of processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from convgpu.sources import procfs
from convgpu.sources.bpf_ledger import BpfLedger
from convgpu.sources.bpf_ring import BpfRing
from convgpu.sources.bpf_source import BpfSource
from convgpu.sources.witness import UNKNOWN_DEVICE, Newcomer, WitnessEvent

DRAIN_LIMIT: Final = 65536
"""Events that one `drain` returns at most, so that a flood of them cannot hold its caller."""

_COMMS_KEPT: Final = 1024
_STACKS_KEPT: Final = 8192
_LOOK_S: Final = 5.0
"""Between two looks for processes whose end was not told: the event was lost, or came before their first allocation."""


class BpfEvents:
    """What happened since the last look.

    Args:
        events: The ring of events.
        notices: The ring of newcomers.
        stacks: The ring of stacks; each is told before its event.
        source: The programs' text, for the words.
        ledger: Their maps, for what the ring lost.
        proc: Where procfs is mounted.
    """

    def __init__(
        self, events: BpfRing, notices: BpfRing, stacks: BpfRing, source: BpfSource, ledger: BpfLedger, proc: Path
    ) -> None:
        self._events = events
        self._notices = notices
        self._stack_ring = stacks
        self._stacks: dict[tuple[int, int], tuple[int, ...]] = {}
        self._source = source
        self._ledger = ledger
        self._proc = proc
        self._comms: dict[bytes, str] = {}
        self._ring_full_seen = 0
        self._next_look = time.monotonic() + _LOOK_S
        self._ending: dict[int, WitnessEvent] = {}
        self._ended: set[int] = set()

    def drain(self) -> list[WitnessEvent]:
        """Return the events since the last call, oldest first.

        An `exit` is told once, when /proc agrees that the last thread is gone: then the driver has freed what the
        process held. Where events were lost, and now and then, processes that are gone are looked for.
        """
        events = []
        rows = self._events.take(DRAIN_LIMIT)
        self._take_stacks()
        for event in self._decoded(rows):
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
        for pid in [pid for pid, event in self._ending.items() if self._is_over(event)]:
            self._ended.add(pid)
            events.append(self._ending.pop(pid))
        return events

    def newcomers(self) -> list[Newcomer]:
        """Return the processes that began to use the driver since the last call."""
        return [
            Newcomer(mono_ns=mono_ns, cgroup_id=cgroup_id, pid=pid, tid=tid)
            for _, _, mono_ns, cgroup_id, pid, tid, _ in self._notices.take(DRAIN_LIMIT)
        ]

    def _take_stacks(self) -> None:
        """Take the stacks; all are there whose events were taken before. Those of lost events find none and go."""
        for _, _, mono_ns, tid, frames, *addresses in self._stack_ring.take(DRAIN_LIMIT):
            self._stacks[mono_ns, tid] = tuple(addresses[:frames])
        while len(self._stacks) > _STACKS_KEPT:
            del self._stacks[next(iter(self._stacks))]

    def forget(self, pids: frozenset[int]) -> None:
        """Drop what is remembered of processes that have ended."""
        self._ended -= pids
        for pid in pids:
            self._ending.pop(pid, None)

    def _decoded(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[WitnessEvent]:
        """Make events of records: the hottest loop of the daemon, so every field has its place in struct event."""
        sources, kinds, apis, memories = (
            self._source.sources,
            self._source.kinds,
            self._source.apis,
            self._source.memories,
        )
        comms, stacks = self._comms, self._stacks
        if len(comms) > _COMMS_KEPT:
            comms.clear()
        for row in rows:
            _, _, mono_ns, cgroup_id, size, latency_ns, pointer, pid, tid, device, source, kind, api, memory, raw, _ = (
                row
            )
            comm = comms.get(raw)
            if comm is None:
                comm = comms[raw] = raw.partition(b"\0")[0].decode(errors="replace")
            yield WitnessEvent(
                mono_ns=mono_ns,
                cgroup_id=cgroup_id,
                pid=pid,
                tid=tid,
                comm=comm,
                source=sources[source],
                kind=kinds[kind],
                size_bytes=size,
                latency_ns=latency_ns,
                device_instance=device,
                api=apis[api],
                memory=memories[memory],
                pointer=pointer,
                stack=stacks.pop((mono_ns, tid), ()) if stacks else (),
            )

    def _is_over(self, event: WitnessEvent) -> bool:
        """Tell whether the process of an `exit` is gone, or its number is another's by now."""
        return procfs.has_ended(event.pid, self._proc) or not procfs.ran_at(event.pid, event.mono_ns, self._proc)

    def _look_for_ended(self) -> None:
        for pid, cgroup_id in self._ledger.processes().items():
            if pid in self._ended or pid in self._ending or not procfs.has_ended(pid, self._proc):
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
