# SPDX-License-Identifier: Apache-2.0
"""`convgpu trace` against a control socket that behaves: lines, filters, losses, histograms."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from convgpu.api import Client
from convgpu.cli.main import main
from convgpu.core.histogram import Histogram
from convgpu.core.trace import TraceBatch, TraceEvent, TraceFilter
from convgpu.core.units import GIB, MIB
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import container_status, sample_snapshot
from convgpu.tui.trace import WIDTH, event_line, latency

ALPHA = container_status("alpha").container_id


def event(kind="alloc", size=4 * MIB, source="runtime", api="cudaMalloc", took=12_500, container="alpha") -> TraceEvent:
    return TraceEvent(
        ts="2026-03-01T12:00:07.250000001Z",
        mono_ns=5,
        container_id=None if container is None else container_status(container).container_id,
        container_name=container,
        pid=4101,
        tid=4102,
        comm="story",
        source=source,
        api=api,
        kind=kind,
        size_bytes=size,
        latency_ns=took,
        gpu=0,
    )


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        fake.trace_batches = [
            TraceBatch(events=(event(), event(source="boundary", api="RM_ALLOC", took=25_000))),
            TraceBatch(events=()),
            TraceBatch(events=(event("free", api="cudaFree"), event("fail", size=GIB), event(container=None)), lost=7),
            TraceBatch(events=(event(size=64 * MIB, container="beta"),), witness_lost=3),
        ]
        yield fake


@pytest.fixture
def convgpu(tmp_path):
    def invoke(*arguments):
        return CliRunner(env={"CONVGPU_RUN_DIR": str(tmp_path)}).invoke(main, arguments, prog_name="convgpu")

    return invoke


def test_a_line_an_event_below_80_columns(server, convgpu):
    done = convgpu("trace")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["TIME", "(UTC)", "CONTAINER", "PID", "COMM", "CALL", "KIND", "SIZE", "TOOK"]
    assert lines[1].split() == ["12:00:07.250", "alpha", "4101", "story", "cudaMalloc", "alloc", "4.00MiB", "12.5us"]
    assert [line.split()[5] for line in lines[1:]] == ["alloc", "alloc", "free", "fail", "alloc", "alloc"]
    assert lines[5].split()[1] == "(host)"
    assert all(len(line) < 80 for line in lines)


def test_what_was_lost_is_said(server, convgpu):
    assert convgpu("trace").stderr.splitlines() == [
        "... 7 events lost: they came faster than they were read",
        "... 3 events lost in the kernel: its ring was full",
    ]


@given(
    st.text(max_size=40), st.text(max_size=40), st.text(max_size=40),
    st.integers(0, 2**63), st.integers(0, 10**12), st.integers(0, 2**22),
)  # fmt: skip
def test_no_event_needs_more_room(name, comm, api, size, took, pid):
    odd = replace(event(size=size, api=api, took=took), container_name=name, comm=comm, pid=pid)
    line = event_line(odd)
    assert len(line) <= WIDTH
    assert line.isprintable()
    assert line.isascii()


@pytest.mark.parametrize(
    ("arguments", "count"),
    [((), 6), (("alpha",), 4), (("--kind", "free"), 1), (("--kind", "fail"), 1), (("--min-size", "64MiB"), 2)],
)
def test_the_daemon_is_asked_for_what_is_wanted_only(server, convgpu, arguments, count):
    shown = [json.loads(line) for line in convgpu("trace", *arguments, "--format", "jsonl").stdout.splitlines()]
    assert len(shown) == count


def test_json_lines_are_the_events(server, convgpu):
    first = json.loads(convgpu("trace", "--format", "jsonl").stdout.splitlines()[0])
    assert first == {
        "ts": "2026-03-01T12:00:07.250000001Z", "mono_ns": 5, "container_id": ALPHA, "container_name": "alpha",
        "pid": 4101, "tid": 4102, "comm": "story", "source": "runtime", "api": "cudaMalloc", "kind": "alloc",
        "size_bytes": 4 * MIB, "latency_ns": 12_500, "gpu": 0, "stack": None,
    }  # fmt: skip


STACK = (
    "forward+0x1f (libmodel.so)",
    "libtorch_cpu.so+0x1f2e3d",
    "_ZN" + "9training" * 20 + "+0x7 (train\x1b[2J)",
    "0x7f00",
)


def test_a_stack_stands_below_its_event_and_below_80_columns(server, convgpu):
    server.trace_batches = [
        TraceBatch(events=(replace(event(), stack=STACK), replace(event("free"), stack=())), stacks_lost=1)
    ]
    done = convgpu("trace", "--stacks")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[1].split()[4:6] == ["cudaMalloc", "alloc"]
    assert lines[2:4] == ["    forward+0x1f (libmodel.so)", "    libtorch_cpu.so+0x1f2e3d"]
    assert lines[4].startswith("    _ZN9training")
    assert lines[5] == "    0x7f00"
    assert lines[6].split()[5] == "free"
    assert lines[7:] == ["    no stack: it was lost"]
    assert all(len(line) < 80 and line.isprintable() for line in lines)
    assert done.stderr == "... 1 stacks lost in the kernel: their ring was full\n"


def test_a_stack_is_whole_in_json_lines(server, convgpu):
    server.trace_batches = [TraceBatch(events=(replace(event(), stack=STACK),))]
    assert json.loads(convgpu("trace", "--stacks", "--format", "jsonl").stdout)["stack"] == list(STACK)


def test_the_daemon_is_asked_for_stacks_only_where_they_are_wanted(server, convgpu):
    convgpu("trace")
    convgpu("trace", "--stacks")
    assert [arguments.stacks for arguments in server.traced] == [False, True]


def test_a_summary_has_no_stacks(server, convgpu):
    done = convgpu("trace", "--summary", "--stacks")
    assert done.exit_code == 2
    assert "leave one of them out" in done.stderr


def test_a_summary_counts_each_source_for_itself(server, convgpu):
    done = convgpu("trace", "--summary", "--format", "jsonl")
    summary = json.loads(done.stdout)
    calls = {(call["source"], call["api"]): call for call in summary["calls"]}
    assert calls["runtime", "cudaMalloc"]["succeeded"] == 3
    assert calls["runtime", "cudaMalloc"]["failed"] == 1
    assert calls["runtime", "cudaMalloc"]["size_bytes"] == 72 * MIB
    assert calls["boundary", "RM_ALLOC"]["latency_ns"] == 25_000
    assert summary["sizes"] == {"boundary": {"22": 1}, "runtime": {"22": 3, "23": 0, "24": 0, "25": 0, "26": 1}}
    assert summary["latencies"] == {"boundary": {"14": 1}, "runtime": {"13": 5}}
    assert summary["lost"] == 10


def test_a_summary_for_a_person_has_histograms_below_80_columns(server, convgpu):
    done = convgpu("trace", "--summary")
    lines = done.stdout.splitlines()
    assert all(len(line) < 80 for line in lines)
    assert ["runtime", "cudaMalloc", "3", "1", "72.0MiB", "12.5us"] in [line.split() for line in lines]
    assert "   4.00MiB to    8.00MiB          3 |" + 40 * "*" in lines
    assert "   8.00MiB to    16.0MiB          0 |" in lines
    assert lines[-1] == "10 events were lost and are not in here."


def test_where_nothing_happens_a_summary_says_so(server, convgpu):
    server.trace_batches = [TraceBatch(events=())]
    assert convgpu("trace", "--summary").stdout == "Nothing happened.\n"


def test_a_duration_ends_it(server, convgpu):
    server.trace_batches = [TraceBatch(events=(event(),))] * 1000
    done = convgpu("trace", "--duration", "1ms", "--format", "jsonl")
    assert done.exit_code == 0
    assert 0 < len(done.stdout.splitlines()) < 1000


def test_an_unknown_container_is_an_error_with_its_status(server, convgpu):
    done = convgpu("trace", "nobody")
    assert done.exit_code == 4
    assert "nobody" in done.stderr


def test_a_script_reads_batches_and_then_asks_something_else(server, tmp_path):
    with Client(tmp_path / "control.sock") as client:
        assert [len(batch.events) for batch in client.trace()] == [2, 0, 3, 1]
        assert client.snapshot() == server.snapshot


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        (TraceFilter(), True),
        (TraceFilter(container_id="a", min_bytes=10, kind="alloc"), True),
        (TraceFilter(container_id="b"), False),
        (TraceFilter(min_bytes=11), False),
        (TraceFilter(kind="free"), False),
    ],
)
def test_a_filter(wanted, accepted):
    assert wanted.wants("alloc", 10, "a") is accepted
    assert not wanted.wants("exit", 10, "a")


def test_durations_are_short():
    assert [latency(ns) for ns in (0, 850, 12_500, 340_000, 1_200_000, 12_300_000_000)] == [
        "0ns", "850ns", "12.5us", "340us", "1.20ms", "12.3s",
    ]  # fmt: skip


def test_a_histogram_has_a_row_for_every_power_between():
    histogram = Histogram()
    for value in (0, 1, 2, 3, 16):
        histogram.add(value)
    assert histogram.rows() == [(0, 2), (1, 2), (2, 0), (3, 0), (4, 1)]
    assert Histogram().rows() == []
