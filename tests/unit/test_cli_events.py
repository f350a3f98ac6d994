# SPDX-License-Identifier: Apache-2.0
"""`convgpu events` against a control socket that behaves."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from convgpu.cli.main import main
from convgpu.core.events import LogEvent
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot

ALPHA = "616c706861" + 54 * "0"
NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def event(number, type_name="decision.denied", *, container=ALPHA, sentence=None):
    when = (NOW + timedelta(minutes=number)).isoformat(timespec="microseconds").removesuffix("+00:00")
    return LogEvent(
        seq=number,
        ts=f"{when}000Z",
        mono_ns=number,
        type=type_name,
        sentence=sentence or f"number {number}",
        container_id=container,
        container_name="alpha",
    )


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        fake.events += [event(number, "decision.suspended" if number % 3 else "finding.raised") for number in range(15)]
        yield fake


@pytest.fixture
def convgpu(tmp_path):
    def invoke(*arguments):
        return CliRunner(env={"CONVGPU_RUN_DIR": str(tmp_path)}).invoke(main, arguments, prog_name="convgpu")

    return invoke


def told(done):
    assert done.exit_code == 0, done.output
    return [line.split("  ", 1)[1] for line in done.stdout.splitlines()[1:]]


def test_the_last_ten_are_told_as_sentences_with_their_time(server, convgpu):
    done = convgpu("events")
    assert told(done) == [f"number {number}" for number in range(5, 15)]
    assert done.stdout.splitlines()[:2] == ["TIME (UTC)      WHAT HAPPENED", "01-05 09:05:00  number 5"]


def test_another_number_of_them_and_none(server, convgpu):
    assert told(convgpu("events", "-n", "2")) == ["number 13", "number 14"]
    assert told(convgpu("events", "--last", "0")) == []


def test_since_a_time_and_since_so_long_ago(server, convgpu):
    assert told(convgpu("events", "--since", "2026-01-05T09:12:00Z")) == ["number 12", "number 13", "number 14"]
    assert told(convgpu("events", "--since", "2026-01-05 09:13")) == ["number 13", "number 14"]
    assert told(convgpu("events", "--since", "2026-01-05T09:12:00Z", "-n", "1")) == ["number 14"]
    recent = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    server.events.append(LogEvent(seq=99, ts=f"{recent}000Z", mono_ns=99, type="daemon.stop", sentence="just now"))
    assert told(convgpu("events", "--since", "1m")) == ["just now"]
    assert len(told(convgpu("events", "--since", "none"))) == 16


def test_types_are_topics_or_record_types(server, convgpu):
    assert told(convgpu("events", "--type", "finding", "-n", "2")) == ["number 9", "number 12"]
    assert told(convgpu("events", "--type", "finding.raised", "-n", "2")) == ["number 9", "number 12"]
    assert told(convgpu("events", "--type", "decision.denied")) == []
    both = told(convgpu("events", "--type", "finding", "--type", "decision.suspended", "-n", "3"))
    assert both == ["number 12", "number 13", "number 14"]


def test_a_type_that_does_not_exist_is_answered_with_the_nearest(convgpu):
    done = convgpu("events", "--type", "decision.denid")
    assert done.exit_code == 2
    assert "did you mean 'decision.denied'?" in done.stderr


def test_a_time_that_cannot_be_read(convgpu):
    done = convgpu("events", "--since", "yesterday")
    assert done.exit_code == 2
    assert "10m" in done.stderr


def test_only_one_container(server, convgpu):
    server.events.append(event(20, container="f" * 64, sentence="another's"))
    assert told(convgpu("events", "-n", "1")) == ["another's"]
    assert told(convgpu("events", "alpha", "-n", "1")) == ["number 14"]
    assert convgpu("events", "nobody").exit_code == 4


def test_control_characters_reach_no_terminal(server, convgpu):
    server.events.append(event(20, sentence="evil\x1b[2J\x07name"))
    assert told(convgpu("events", "-n", "1")) == ["evil?[2J?name"]


def test_formats_for_programs(server, convgpu):
    lines = convgpu("events", "-n", "2", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["sentence"] for line in lines] == ["number 13", "number 14"]
    rows = list(csv.DictReader(convgpu("events", "-n", "2", "--format", "csv").stdout.splitlines()))
    assert [(row["seq"], row["type"]) for row in rows] == [("13", "decision.suspended"), ("14", "decision.suspended")]


def test_follow_tells_what_comes_and_ends_with_ctrl_c(server, tmp_path):
    """A process of its own: Ctrl-C is a signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "convgpu.cli.quick", "events", "-f", "-n", "1", "--format", "json",
         "--run-dir", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "[\n"
        first = process.stdout.readline(len('  {"seq":14'))
        assert first == '  {"seq":14'
        server.events.append(event(50, sentence="it came later"))
        rest = ""
        while "it came later" not in rest:
            rest += process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest += process.stdout.read()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
    assert [each["sentence"] for each in json.loads("[" + first + rest)] == ["number 14", "it came later"]


def test_no_daemon(convgpu):
    assert convgpu("events").exit_code == 3
