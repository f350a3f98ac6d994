# SPDX-License-Identifier: Apache-2.0
"""What a daemon recorded, played again: under the same algorithm the same decisions, under another one what it says."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner
from house import House, PeerProcess

from convgpu.audit.files import read_lines
from convgpu.cli.main import main
from convgpu.core.decision import Denied, Granted, RequestDecision
from convgpu.core.units import GIB
from convgpu.simulation.events import DaemonStarted, Decided, Event
from convgpu.simulation.rebuild import rebuild
from convgpu.simulation.recording import read_recording
from convgpu.simulation.simulator import Simulation

pytestmark = pytest.mark.root

NOWAIT = 1


def guest(house: House, name: str, **labels: str) -> PeerProcess:
    peer = house.peer(house.container(name, guarantee="0", **labels))
    assert peer.do("hello")["type"] == "WELCOME"
    return peer


def take(peer: PeerProcess, size_bytes: int, flags: int = 0) -> str:
    peer.do("acquire", size_bytes, "first", flags)
    answer = peer.do("answer")
    if answer["type"] == "GRANTED":
        peer.do("settle", size_bytes)
    return str(answer["type"])


def an_afternoon(house: House) -> None:
    """Grants, denials, waits, frees that are announced, a limit that is changed, a wait that ends, a kill."""
    house.start()
    holder = guest(house, "holder", limit="6GiB")
    old = guest(house, "old", limit="6GiB")
    urgent = guest(house, "urgent", limit="6GiB", priority="5")
    hasty = guest(house, "hasty", limit="6GiB", wait="200ms")
    assert take(holder, 6 * GIB) == "GRANTED"
    assert take(holder, GIB) == "DENIED"
    assert take(old, 5 * GIB, NOWAIT) == "DENIED"
    for peer, waiting in ((old, 1), (urgent, 2)):
        peer.do("acquire", 5 * GIB)
        house.until("it waits", lambda waiting=waiting: len(house.records("decision.suspended")) == waiting)
    assert take(hasty, 5 * GIB) == "DENIED"
    with house.client() as client:
        client.limit_set("hasty", 5 * GIB)
    holder.do("free", 6 * GIB)
    holder.do("released")
    assert old.do("answer")["type"] == "GRANTED"
    old.do("settle", 5 * GIB)
    time.sleep(0.3)
    old.do("free", 2 * GIB)
    old.do("released")
    house.until("it is taken back", lambda: len(house.records("credit.reclaimed")) == 2)
    old.kill()
    assert urgent.do("answer")["type"] == "GRANTED"
    house.until("it is written", lambda: len(house.records("decision.resumed")) == 2)
    house.stop()


def simulated(events: list[Event], **changes: object) -> list[tuple[str, str]]:
    """Decisions in the order in which they are taken: id of the request, and what."""
    start = events[0]
    assert isinstance(start, DaemonStarted)
    seen: list[tuple[str, str]] = []

    def note(decision: RequestDecision, label: str) -> None:
        kind = "suspended"
        if isinstance(decision, Granted):
            kind = "resumed" if decision.resumed else "granted"
        elif isinstance(decision, Denied):
            kind = "denied"
        seen.append((label, kind))

    settings = replace(start.simulated(), **changes)  # type: ignore[arg-type]
    Simulation(rebuild(events, "log"), settings, on_decision=note).run()
    return seen


def test_under_the_recorded_algorithm_every_decision_comes_again_in_order(house: House) -> None:
    an_afternoon(house)
    events = read_recording(read_lines([house.log]), "log")
    recorded = [(event.request, event.kind) for event in events if isinstance(event, Decided)]
    assert [kind for _, kind in recorded] == [
        "granted", "denied", "denied", "suspended", "suspended", "suspended", "denied", "resumed", "resumed",
    ]  # fmt: skip
    assert simulated(events) == recorded


def test_under_another_algorithm_others_go_first(house: House) -> None:
    an_afternoon(house)
    events = read_recording(read_lines([house.log]), "log")
    suspended = {event.container: event.request for event in events if isinstance(event, Decided)}
    names = {record["container"]["name"]: record["container"]["id"] for record in house.records("container.seen")}
    old, urgent = (suspended[names[name]] for name in ("old", "urgent"))
    fifo = [label for label, kind in simulated(events) if kind == "resumed"]
    priority = [label for label, kind in simulated(events, algorithm="priority") if kind == "resumed"]
    assert (fifo, priority) == ([old, urgent], [urgent, old])


def replay(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["replay", *map(str, arguments)], prog_name="convgpu")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_compares_algorithms_and_checks(house: House) -> None:
    an_afternoon(house)
    assert "9 decisions in 1 run of the daemon, all as recorded" in replay(house.log, "--check")
    rows = {row["algorithm"]: row for row in csv.DictReader(replay(house.log, "--format", "csv").splitlines())}
    assert rows["fifo"]["containers"] == rows["priority"]["containers"] == "4"
    assert rows["fifo"]["deviations"] == "0"
    (run,) = json.loads(replay(house.log, "--algorithm", "priority", "--format", "json", "--per-container"))
    waits = {container["name"]: container["suspended_s"] for container in run["containers"]}
    assert waits["urgent"] < waits["old"]


def test_a_decision_that_was_changed_in_the_log_is_found(house: House) -> None:
    an_afternoon(house)
    changed = house.folder / "changed.jsonl"
    lines = house.log.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if '"type":"decision.resumed"' in line)
    lines[place] = lines[place].replace('"assigned_bytes":5368709120', '"assigned_bytes":5368709121')
    changed.write_text("".join(lines))
    done = CliRunner().invoke(main, ["replay", str(changed), "--check"], prog_name="convgpu")
    assert done.exit_code == 1
    assert "assigned_bytes is 5368709120, recorded: 5368709121" in done.stderr
    assert "1 difference" in done.stdout
