# SPDX-License-Identifier: Apache-2.0
"""The monitor's screen, as a function of a snapshot and a size."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from convgpu.core.status import FindingStatus, ProcessStatus, WitnessStatus
from convgpu.core.units import GIB, MIB
from convgpu.testing.snapshots import (
    GPU_UUID,
    container_status,
    device_usage,
    sample_detail,
    sample_events,
    sample_snapshot,
)
from convgpu.tui.glyphs import ASCII, BLOCKS, glyphs_for
from convgpu.tui.history import History
from convgpu.tui.queue import queue_rows
from convgpu.tui.state import Page, RowKey, State
from convgpu.tui.view import Scene, view

SNAPSHOTS = Path(__file__).parent / "snapshots"


def screen(snapshot, width, height=None, glyphs=BLOCKS, **scene):
    """Draw without colour and return the lines."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, _environ={})
    console.print(view(snapshot, width, height, glyphs=glyphs, scene=Scene(**scene)))
    return console.file.getvalue().splitlines()


def containers_of(*containers, **changes):
    return replace(sample_snapshot(), containers=containers, queue=(), **changes)


def sample_scene(**choices):
    history = History()
    for second, used in enumerate((0, 512 * MIB, 2 * GIB, 3 * GIB, 4608 * MIB, 4608 * MIB)):
        alpha, *others = sample_snapshot().containers
        moment = replace(alpha, devices=(replace(alpha.devices[0], used_bytes=used),))
        history.take(replace(sample_snapshot(), containers=(moment, *others)), float(second))
    known = {"history": history, "events": sample_events(), "detail": sample_detail()}
    return {"state": State(**choices), "live": True, **known}


BETA = RowKey(container_status("beta").container_id, GPU_UUID)
PAGES = {
    "main": {},
    "tree": {"tree": True, "sort": "usage", "filter": "a"},
    "detail": {"page": Page.DETAIL, "selected": BETA},
    "help": {"page": Page.HELP, "edit": True},
}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 160, 200, 300])
@pytest.mark.parametrize("page", PAGES)
def test_the_screen_looks_as_it_was_agreed(page, width):
    """Look at the difference; if it is meant, run once with CONVGPU_UPDATE_SNAPSHOTS=1 and review the files."""
    height = 24 if page in ("main", "tree") else None
    drawn = "\n".join(screen(sample_snapshot(), width, height, **sample_scene(**PAGES[page]))) + "\n"
    path = SNAPSHOTS / f"top_{page}_{width}.txt"
    if os.environ.get("CONVGPU_UPDATE_SNAPSHOTS") == "1":
        path.write_text(drawn)
    assert drawn == path.read_text()


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 13, 24, 50, 100])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, 39, 40, 79, 80, 81, 133, 300])
def test_every_size_is_kept(width, height):
    crowd = tuple(container_status(f"trainer-{n}", device_usage(n * MIB, GIB)) for n in range(60))
    for snapshot in (sample_snapshot(), replace(sample_snapshot(), containers=crowd), containers_of()):
        lines = screen(snapshot, width, height, notice="the daemon is away", live=True)
        assert len(lines) <= height
        assert all(cell_len(line) <= width for line in lines)


SIZES = st.none() | st.integers(min_value=0, max_value=2**60)
NAMES = st.text(max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    width=st.integers(1, 300),
    height=st.none() | st.integers(1, 100),
    name=NAMES,
    state=NAMES,
    image=NAMES,
    used=SIZES,
    limit=SIZES,
    assigned=SIZES,
    waiting=st.integers(0, 10**6),
)
def test_nothing_that_a_container_calls_itself_breaks_the_screen(
    width, height, name, state, image, used, limit, assigned, waiting
):
    usage = replace(device_usage(used, limit, waiting=waiting), assigned_bytes=assigned)
    odd = containers_of(container_status(name, usage, state=state, image=image), algorithm=name, driver=name)
    lines = screen(odd, width, height)
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


def test_the_first_eighty_columns_hold_the_whole_row():
    heading = next(line for line in screen(sample_snapshot(), 80) if line.startswith("CONTAINER"))
    for word in ("GPU", "MEM USAGE/LIMIT", "MEM%", "PEAK", "PROCS", "WAIT", "DENIED", "TREND", "STATE"):
        assert word in heading
    wide = next(line for line in screen(sample_snapshot(), 160) if line.startswith("CONTAINER"))
    assert "MEM USAGE / LIMIT" in wide
    for word in ("ASSIGNED", "WITNESS", "NVML"):
        assert word not in heading
        assert word in wide


def test_what_is_not_known_is_not_zero():
    usage = replace(
        device_usage(None, None), assigned_bytes=None, guarantee_bytes=None, peak_bytes=None, witness_bytes=None
    )
    row = next(line for line in screen(containers_of(container_status("x", usage)), 200) if line.startswith("x "))
    assert "N/A /     N/A" in row
    assert row.count("N/A") == 8  # used, limit, percent, peak, assigned, guarantee, witness, NVML
    assert "0B" not in row


def test_states_are_words():
    guesses = ProcessStatus(pid=7, comm="odd", used_bytes=GIB, estimated=True)
    rows = screen(
        containers_of(
            container_status("runs", device_usage(GIB, 2 * GIB)),
            container_status("waits", device_usage(GIB, 2 * GIB, waiting=1)),
            container_status("over-it", device_usage(3 * GIB, 2 * GIB)),
            container_status("sleeps", device_usage(GIB, 2 * GIB, waiting=1), state="paused"),
            container_status("idle", state="running"),
            container_status("guesses", device_usage(GIB, 2 * GIB, processes=(guesses,))),
            container_status("both", device_usage(3 * GIB, 2 * GIB, processes=(guesses,))),
        ),
        80,
    )
    states = {line.split()[0]: line.split()[-1] for line in rows if line}
    assert states["runs"] == "running"
    assert states["waits"] == "suspended"
    assert states["over-it"] == "over"
    assert states["sleeps"] == "paused"
    assert states["idle"] == "running"
    assert states["guesses"] == "estimated"
    assert states["both"] == "over"


def test_simulated_is_said_first_and_only_then():
    assert "(simulated)" in screen(sample_snapshot(), 40)[0]
    assert "(simulated)" not in "\n".join(screen(replace(sample_snapshot(), simulated=False), 200))


def test_the_queue_is_there_only_while_somebody_waits():
    assert any(line.startswith("QUEUE") for line in screen(sample_snapshot(), 80))
    assert not any(line.startswith("QUEUE") for line in screen(replace(sample_snapshot(), queue=()), 80))


def test_the_queue_stands_in_the_order_of_service():
    (first,) = sample_snapshot().queue
    snapshot = replace(
        sample_snapshot(),
        queue=(
            replace(first, position=2, container_name="later", waited_ms=90_000),
            replace(first, position=1, container_name="sooner", waited_ms=250),
        ),
    )
    lines = screen(snapshot, 80)
    waiting = lines[next(n for n, line in enumerate(lines) if line.startswith("QUEUE")) + 1 :]
    assert [line.split()[:6] for line in waiting] == [
        ["1", "sooner", "0", "4.00GiB", "250ms", "4207"],
        ["2", "later", "0", "4.00GiB", "1m30s", "4207"],
    ]


def test_rows_without_a_place_are_counted():
    crowd = tuple(container_status(f"trainer-{n}", device_usage(n * MIB, GIB)) for n in range(60))
    lines = screen(containers_of(*crowd), 80, 24)
    shown = sum(line.startswith("trainer-") for line in lines)
    assert shown > 10
    assert f"… {60 - shown} more containers" in lines


def test_a_short_screen_keeps_the_containers():
    lines = screen(sample_snapshot(), 80, 6)
    assert any(line.startswith("alpha") for line in lines)
    assert not any("CAPACITY" in line for line in lines)


def test_a_container_on_two_devices_has_two_rows():
    two = container_status("wide", device_usage(GIB, 2 * GIB), device_usage(MIB, 2 * GIB, uuid="GPU-1", index=1))
    assert sum(line.startswith("wide") for line in screen(containers_of(two), 80)) == 2


def test_a_witness_that_is_off_says_why():
    off = WitnessStatus(running=False, reason="bcc is\nnot installed", attached=(), missing=(), lost={})
    assert "probes off: bcc is?not installed" in "\n".join(screen(replace(sample_snapshot(), witness=off), 120))


def test_lost_events_are_added_up():
    witness = replace(sample_snapshot().witness, lost={"ring": 3, "map": 4})
    assert "events lost 7" in "\n".join(screen(replace(sample_snapshot(), witness=witness), 80))


def test_no_containers_is_not_an_empty_screen():
    assert "No containers. Start one: convgpu run --limit 4GiB -- ..." in screen(containers_of(), 80)


def test_a_notice_and_the_keys_are_where_one_looks():
    lines = screen(sample_snapshot(), 80, 24, notice="figures are 9 s old", live=True)
    assert lines[1] == "figures are 9 s old"
    assert len(lines) == 24
    assert lines[-1].startswith("q quit  every 1 s  ? help")


def test_an_output_that_takes_no_blocks_gets_ascii():
    assert glyphs_for("ANSI_X3.4-1968") is ASCII
    assert glyphs_for("utf-8", "linux") is ASCII, "the console's font has no Braille"
    assert glyphs_for("UTF8", "xterm-256color") is BLOCKS
    drawn = "\n".join(screen(sample_snapshot(), 120, glyphs=glyphs_for("ascii")))
    assert drawn.isascii()
    assert "####" in drawn


def test_colour_is_never_the_only_sign():
    """The same text comes out with and without colour."""
    coloured = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="truecolor", _environ={})
    coloured.print(view(sample_snapshot(), 120))
    assert "\x1b[" in coloured.file.getvalue()
    grey = Console(file=io.StringIO(), width=120, force_terminal=True, _environ={"NO_COLOR": "1", "TERM": "xterm"})
    grey.print(view(sample_snapshot(), 120))
    assert "\x1b[3" not in grey.file.getvalue()


def test_a_thousand_containers_cost_what_is_visible():
    """Rows that are not shown are not drawn: the work is bounded by the height, not by the number of containers."""
    drawn = []

    class Counted(str):
        __slots__ = ()

        def isprintable(self):
            drawn.append(self)
            return super().isprintable()

    crowd = tuple(
        replace(container_status(f"c{n}", device_usage(MIB, GIB)), name=Counted(f"c{n}")) for n in range(1000)
    )
    screen(containers_of(*crowd), 80, 24)
    assert 10 <= len(drawn) < 24


def test_starts_that_wait_come_after_all_allocations_and_say_what_they_are():
    snapshot = sample_snapshot()
    (allocation,) = snapshot.queue
    start = replace(allocation, kind="start", container_name="delta", pid=None, position=1)
    rows = queue_rows(replace(snapshot, queue=(start, replace(allocation, position=2))))
    assert [row.request.container_name for row in rows] == ["beta", "delta"]
    line = next(line for line in screen(replace(snapshot, queue=(start,)), 110, 30) if "delta" in line)
    assert "start" in line.split()


def test_what_was_found_is_the_state_the_gravest_first_and_is_counted_above():
    def finding(kind, uuid=GPU_UUID):
        return FindingStatus(kind=kind, uuid=uuid, reason="so", pids=(7,), since="now", action="log")

    def found(name, *findings):
        return replace(container_status(name, device_usage(3 * GIB, 2 * GIB)), findings=findings)

    snapshot = containers_of(
        found("liar", finding("tampered"), finding("bypass")),
        found("bare", finding("unwrapped")),
        found("elsewhere", finding("bypass", "GPU-other")),
    )
    lines = screen(snapshot, 80)
    assert "4 findings" in lines[0]
    states = {line.split()[0]: line.split()[-1] for line in lines if line.split()}
    assert (states["liar"], states["bare"], states["elsewhere"]) == ("tampered", "unwrapped", "over")
    assert "finding" not in screen(sample_snapshot(), 80)[0]
