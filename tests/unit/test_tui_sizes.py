# SPDX-License-Identifier: Apache-2.0
"""Every size of a terminal, whatever keys were pressed and whatever the daemon says."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from convgpu.core.detail import ContainerDetail
from convgpu.core.events import LogEvent
from convgpu.core.status import FindingStatus, ProcessStatus
from convgpu.testing.snapshots import GPU_UUID, container_status, device_usage, sample_snapshot
from convgpu.tui.containers import container_rows
from convgpu.tui.controls import Shown, press
from convgpu.tui.glyphs import ASCII, BLOCKS
from convgpu.tui.history import History
from convgpu.tui.keys import KEYS
from convgpu.tui.order import arrange
from convgpu.tui.state import Page, State
from convgpu.tui.view import Scene, cursor_of, longest_scroll, view

TEXTS = st.text(max_size=60) | st.text(alphabet="a 漢字😀\u0301\u200d\ufe0f", max_size=30)
SIZES = st.none() | st.integers(-(2**20), 2**62)
PIDS = st.integers(1, 2**22)
COUNTS = st.dictionaries(st.integers(0, 62), st.integers(0, 10**9))
NAMES = [name for key in KEYS for name in key.names] + ["y", "n", "1", "G", "x", "ä", "delete", "ctrl-u"]


@st.composite
def processes(draw):
    return ProcessStatus(
        pid=draw(PIDS),
        comm=draw(st.none() | TEXTS),
        used_bytes=draw(SIZES),
        witness_bytes=draw(SIZES),
        nvml_bytes=draw(SIZES),
        estimated=draw(st.booleans()),
        witness_partial=draw(st.booleans()),
    )


@st.composite
def containers(draw, number):
    devices = tuple(
        replace(
            device_usage(draw(SIZES), draw(SIZES), uuid=uuid, index=index, waiting=draw(st.integers(0, 10**6))),
            assigned_bytes=draw(SIZES),
            processes=tuple(draw(st.lists(processes(), max_size=3))),
        )
        for index, uuid in enumerate(draw(st.sampled_from([(), (GPU_UUID,), (GPU_UUID, "GPU-other")])))
    )
    found = FindingStatus(kind=draw(TEXTS), uuid=GPU_UUID, reason=draw(TEXTS), pids=(7,), since="now", action="log")
    status = container_status(draw(TEXTS), *devices, state=draw(TEXTS), image=draw(TEXTS))
    return replace(
        status,
        container_id=f"{number:064x}",
        guarded=draw(st.booleans()),
        findings=draw(st.sampled_from([(), (found,)])),
    )


@st.composite
def snapshots(draw):
    crowd = draw(st.integers(0, 6))
    (waiting,) = sample_snapshot().queue
    queue = tuple(
        replace(
            waiting,
            container_name=draw(TEXTS),
            position=number,
            need_bytes=draw(SIZES),
            goes_on=draw(st.none() | TEXTS),
            place=draw(st.none() | TEXTS),
            pid=draw(st.none() | PIDS),
        )
        for number in range(draw(st.integers(0, 4)))
    )
    return replace(
        sample_snapshot(),
        containers=tuple(draw(containers(number)) for number in range(crowd)),
        gpus=draw(st.sampled_from([(), sample_snapshot().gpus])),
        queue=queue,
        undecided=tuple(draw(st.lists(TEXTS, max_size=2))),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    snapshot=snapshots(),
    width=st.integers(1, 12) | st.integers(1, 300),
    height=st.integers(1, 100),
    keys=st.lists(st.sampled_from(NAMES), max_size=25),
    told=st.lists(TEXTS, max_size=30),
    sizes=st.none() | st.dictionaries(st.sampled_from(["runtime", "boundary"]), COUNTS),
    glyphs=st.sampled_from([ASCII, BLOCKS]),
    notice=st.none() | TEXTS,
)  # fmt: skip
def test_no_keys_no_snapshot_and_no_size_break_the_screen(snapshot, width, height, keys, told, sizes, glyphs, notice):
    events = tuple(
        LogEvent(seq=seq, ts="2026-03-01T12:00:00.000000000Z", mono_ns=seq, type="limit.set", sentence=text)
        for seq, text in enumerate(told)
    )
    history = History()
    for second in range(5):
        history.take(snapshot, float(second))
    state = State(edit=True)
    for key in [None, *keys]:
        rows = arrange(container_rows(snapshot), state)
        looked_at = rows[cursor_of(rows, state)].key.container_id if rows else "0" * 64
        detail = ContainerDetail(
            container_id=looked_at, name=notice or "", limit_source=None, sizes=sizes, waiting=snapshot.queue,
            decisions=events,
        )  # fmt: skip
        scene = Scene(state=state, history=history, events=events, detail=detail, notice=notice, live=True)
        if key is not None:
            most = 0 if state.page is Page.MAIN else longest_scroll(snapshot, width, height, scene, glyphs)
            shown = Shown(rows, cursor_of(rows, state), height // 2, most, len(snapshot.queue), len(events))
            state = press(state, key, shown).state
            scene = replace(scene, state=state)
        lines = view(snapshot, width, height, glyphs=glyphs, scene=scene).plain.split("\n")
        assert len(lines) == height
        assert all(cell_len(line) <= width for line in lines)
        assert all(line.isprintable() for line in lines)
