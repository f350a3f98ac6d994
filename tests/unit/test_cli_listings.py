# SPDX-License-Identifier: Apache-2.0
"""`convgpu ps`, `convgpu limit` and `convgpu top` against a control socket that behaves."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
from click.testing import CliRunner

from convgpu.cli.main import main
from convgpu.cli.output import table
from convgpu.core.status import ContainerStatus, FindingStatus, ProcessStatus, Snapshot
from convgpu.core.units import GIB
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import GPU_UUID, container_status, device_usage, sample_events, sample_snapshot


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def convgpu(tmp_path):
    def invoke(*arguments):
        return CliRunner(env={"CONVGPU_RUN_DIR": str(tmp_path)}).invoke(main, arguments, prog_name="convgpu")

    return invoke


def test_ps_json_has_the_fields_that_others_rely_on(server, convgpu):
    done = convgpu("ps", "--format", "json")
    assert done.exit_code == 0
    listed = json.loads(done.stdout)
    assert [container["name"] for container in listed] == ["alpha", "gamma", "beta"]
    assert {"container_id", "name", "image", "state", "devices", "processes"} <= set(listed[0])
    assert {
        "uuid", "index", "limit_bytes", "guarantee_bytes", "assigned_bytes", "used_bytes", "peak_bytes",
        "witness_bytes", "nvml_bytes", "waiting", "denied", "suspended_ms",
    } <= set(listed[0]["devices"][0])  # fmt: skip
    assert {"pid", "comm", "used_bytes"} <= set(listed[0]["processes"][0])
    assert msgspec.json.decode(done.stdout, type=tuple[ContainerStatus, ...]) == server.snapshot.containers


def test_what_is_not_known_is_null_and_na_never_zero(server, convgpu):
    unknown = replace(device_usage(None, 5 * GIB), assigned_bytes=None)
    server.snapshot = replace(server.snapshot, containers=(container_status("odd", unknown), container_status("none")))
    assert json.loads(convgpu("ps", "--format", "json").stdout)[0]["devices"][0]["used_bytes"] is None
    rows = convgpu("ps").stdout.splitlines()
    assert rows[1].split() == [
        "6f6464000000", "odd", "convgpu/story", "running", "0", "N/A", "5GiB", "N/A", "N/A", "0", "0",
    ]  # fmt: skip
    assert rows[2].split()[4:] == ["N/A"] * 7


def test_ps_table(server, convgpu):
    done = convgpu("ps")
    assert done.stdout.splitlines()[3].split() == [
        "626574610000", "beta", "convgpu/story", "running", "0", "512MiB", "5GiB", "4GiB", "512MiB", "1", "0",
    ]  # fmt: skip
    assert "simulated" in done.stderr


def test_ps_says_in_words_and_in_json_what_is_estimated(server, convgpu):
    process = ProcessStatus(pid=7, comm="odd", used_bytes=GIB, estimated=True)
    odd = container_status("odd", device_usage(GIB, 5 * GIB, processes=(process,)))
    server.snapshot = replace(server.snapshot, containers=(odd, container_status("even", device_usage(GIB, GIB))))
    rows = convgpu("ps").stdout.splitlines()
    assert "running, estimated" in rows[1]
    assert "estimated" not in rows[2]
    listed = json.loads(convgpu("ps", "--format", "json").stdout)
    assert listed[0]["devices"][0]["processes"][0]["estimated"] is True
    assert listed[0]["processes"][0]["estimated"] is True


def test_ps_says_in_words_and_in_json_what_was_found(server, convgpu):
    finding = FindingStatus(
        kind="bypass", uuid=GPU_UUID, reason="2GiB held beyond what the wrapper said", pids=(7, 8), since="now",
        action="log", container_id="0", container_name="odd", used_bytes=GIB, witness_bytes=3 * GIB,
    )  # fmt: skip
    odd = replace(container_status("odd", device_usage(GIB, 5 * GIB)), findings=(finding,))
    outside = FindingStatus(kind="external", uuid=GPU_UUID, reason="too little", pids=(), since="now", action="log")
    server.snapshot = replace(
        server.snapshot,
        containers=(odd, container_status("even", device_usage(GIB, GIB))),
        gpus=(replace(server.snapshot.gpus[0], findings=(outside,)),),
        undecided=("no witness (off): so and so",),
    )
    done = convgpu("ps")
    rows = done.stdout.splitlines()
    assert "running (bypass)  " in rows[1]
    assert "(" not in rows[2]
    assert "bypass: odd, pid 7, 8, GPU 0: 2GiB held beyond what the wrapper said." in done.stderr
    assert "external: outside, GPU 0: too little." in done.stderr
    assert "Not decided: no witness (off): so and so." in done.stderr
    listed = json.loads(convgpu("ps", "--format", "json").stdout)
    assert [container["findings"] for container in listed] == [
        [{"kind": "bypass", "uuid": GPU_UUID, "reason": finding.reason, "pids": [7, 8], "since": "now", "action": "log",
          "container_id": "0", "container_name": "odd", "used_bytes": GIB, "witness_bytes": 3 * GIB, "nvml_bytes": None,
          "assigned_bytes": None, "capacity_bytes": None, "external_bytes": None}],
        [],
    ]  # fmt: skip


def test_no_daemon(convgpu):
    done = convgpu("ps")
    assert done.exit_code == 3
    assert done.stderr.splitlines()[1] == "next: start it with `convgpu daemon`"


def test_limit_set_changes_the_limit(server, convgpu):
    done = convgpu("limit", "set", "gamma", "3GiB")
    assert (done.exit_code, done.stdout) == (0, "gamma: limit 1GiB -> 3GiB\n")
    assert json.loads(convgpu("limit", "get", "gamma", "--format", "json").stdout) == {
        "container_id": "67616d6d61" + 54 * "0",
        "name": "gamma",
        "limit_bytes": 3 * GIB,
        "guarantee_bytes": 3 * GIB,
        "source": "command",
        "devices": [{"uuid": GPU_UUID, "index": 0, "limit_bytes": 3 * GIB, "guarantee_bytes": 3 * GIB}],
    }
    assert convgpu("limit", "rm", "67616d6d").stdout == "gamma: limit 3GiB -> 1GiB\n"


def test_limit_set_with_a_guarantee(server, convgpu):
    assert convgpu("limit", "set", "gamma", "3GiB", "--guarantee", "0").exit_code == 0
    assert json.loads(convgpu("limit", "get", "gamma", "--format", "json").stdout)["guarantee_bytes"] == 0


def test_a_limit_below_the_use_says_what_that_means(server, convgpu):
    assert "It holds 4.50GiB" in convgpu("limit", "set", "alpha", "2GiB").stdout


def test_limit_ls(server, convgpu):
    row = convgpu("limit", "ls").stdout.splitlines()[1].split()
    assert row == ["616c70686100", "alpha", "0", "5GiB", "5GiB", "label"]
    assert [limit["name"] for limit in json.loads(convgpu("limit", "ls", "--format", "json").stdout)] == [
        "alpha", "gamma", "beta",
    ]  # fmt: skip


def test_limit_ls_has_a_line_for_devices_whose_limits_differ(server, convgpu):
    devices = [device_usage(0, limit, uuid=f"GPU-{n}", index=n) for n, limit in enumerate([GIB, 2 * GIB, GIB])]
    server.snapshot = replace(server.snapshot, containers=(container_status("wide", *devices),))
    rows = [line.split()[2:5] for line in convgpu("limit", "ls").stdout.splitlines()[1:]]
    assert rows == [["0,2", "1GiB", "1GiB"], ["1", "2GiB", "2GiB"]]


def test_ps_says_what_is_held_outside(server, convgpu):
    gpu = replace(server.snapshot.gpus[0], external_bytes=GIB, capacity_bytes=9 * GIB)
    server.snapshot = replace(server.snapshot, gpus=(gpu,))
    said = convgpu("ps").stderr.splitlines()[0]
    assert said == "GPU 0: 1GiB are held outside ConvGPU, containers may be assigned 9GiB."


@pytest.mark.parametrize("size", ["3Gx", "-1", "0", "4 GB!", "", "1e9"])
def test_a_size_that_is_none_is_refused_with_the_accepted_forms(server, convgpu, size):
    done = convgpu("limit", "set", "--", "gamma", size)
    assert done.exit_code == 2
    assert "4GiB, 4G, 4096MiB" in done.stderr
    assert server.requests == []


def test_errors_of_the_daemon_arrive_with_their_status(server, convgpu):
    assert convgpu("limit", "get", "nobody").exit_code == 4
    refused = convgpu("limit", "set", "gamma", "30GiB")
    assert refused.exit_code == 5
    assert "30GiB" in refused.stderr
    assert "10GiB" in refused.stderr


def test_top_into_a_pipe_is_one_plain_table(server, convgpu):
    once, piped = convgpu("top", "--once"), convgpu("top")
    assert once.exit_code == piped.exit_code == 0
    assert once.stdout == piped.stdout
    assert "\x1b" not in once.stdout
    assert [line.split()[0] for line in once.stdout.splitlines() if " / " in line][1:] == ["alpha", "gamma", "beta"]
    for word in ("WITNESS", "NVML", "suspended", "(simulated)"):
        assert word in once.stdout


def test_top_json_is_the_snapshot(server, convgpu):
    assert msgspec.json.decode(convgpu("top", "--json").stdout, type=Snapshot) == server.snapshot


def test_top_jsonl_is_a_snapshot_a_line(server, convgpu):
    (line,) = convgpu("top", "--jsonl", "--once").stdout.splitlines()
    assert msgspec.json.decode(line, type=Snapshot) == server.snapshot


@pytest.mark.parametrize("options", [("--json", "--jsonl"), ("--edit", "--once"), ("--edit", "--json")])
def test_top_refuses_what_contradicts_itself(server, convgpu, options):
    assert convgpu("top", *options).exit_code == 2
    assert server.requests == []


def test_top_ascii(server, convgpu):
    printed = convgpu("top", "--once", "--ascii").stdout
    assert printed.isascii()
    assert "###" in printed


def test_top_svg(server, convgpu, tmp_path):
    server.events.append(replace(sample_events()[0], sentence="happened"))
    assert convgpu("top", "--once", "--svg", str(tmp_path / "top.svg")).exit_code == 0
    assert (tmp_path / "top.svg").read_text().startswith("<svg")
    assert "happened" in (tmp_path / "top.svg").read_text()
    assert convgpu("top", "--svg", str(tmp_path / "other.svg")).exit_code == 2


def test_a_table_counts_cells_not_characters():
    assert table(("A", "B"), [("日本", "x"), ("e\u0301", "y")]) == "A      B\n日本   x\ne\u0301      y"


def test_queue_says_who_waits_and_what_would_let_it_go_on(server, convgpu):
    lines = convgpu("queue").stdout.splitlines()
    assert lines[0].split() == ["POS", "GPU", "CONTAINER", "FOR", "WANTS", "LACKS", "WAITED", "LEFT", "PASSED"]
    assert lines[1].split() == ["1", "0", "beta", "story[4207]", "4GiB", "512MiB", "12.3s", "-", "0"]
    assert lines[2:] == [
        "    place: in order of creation",
        "    goes on: when 512MiB are free on GPU 0 (0B now); the end of alpha is enough",
    ]
    assert all(len(line) < 80 for line in lines)
    assert convgpu("queue", "alpha").stdout == "alpha does not wait.\n"
    assert convgpu("queue", "nobody").exit_code == 4
    assert json.loads(convgpu("queue", "--format", "json").stdout)[0]["obstacle"] == "not_free"
    server.snapshot = replace(server.snapshot, queue=())
    assert convgpu("queue").stdout == "Nobody waits.\n"


def test_queue_shows_a_start_that_waits(server, convgpu):
    (entry,) = server.snapshot.queue
    start = replace(entry, kind="start", pid=None, comm=None, left_ms=90_000, position=1, place=None, goes_on=None)
    server.snapshot = replace(server.snapshot, queue=(start,))
    (_, line) = convgpu("queue").stdout.splitlines()
    assert line.split() == ["1", "0", "beta", "start", "4GiB", "512MiB", "12.3s", "1m30s", "0"]
