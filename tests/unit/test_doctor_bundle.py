# SPDX-License-Identifier: Apache-2.0
"""What goes into a bundle for a report, and above all what does not."""

from __future__ import annotations

import getpass
import gzip
import json
import socket
import tarfile
from dataclasses import dataclass, replace

import pytest
from click.testing import CliRunner

import convgpu.doctor
from convgpu.cli.main import main
from convgpu.config.layers import Layers
from convgpu.core.events import LogEvent
from convgpu.core.status import FindingStatus, GroupStatus, GroupUsage, ProcessStatus, WitnessStatus
from convgpu.core.units import GIB
from convgpu.doctor.bundle import CONTENTS, collect, write
from convgpu.doctor.finding import Check, Finding, Machine, Verdict
from convgpu.doctor.redaction import Redaction, figures_of
from convgpu.errors import EnvironmentMissingError
from convgpu.paths import RunPaths
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import GPU_UUID, container_status, device_usage, sample_snapshot

SECRETS = {
    "container": "payroll-of-acme",
    "image": "registry.acme.example/finance/model",
    "program": "steal-the-show",
    "reason": "seen in the cellar",
    "token": "hunter2hunter2",
    "password": "correcthorsebattery",
    "host": "db.acme.example",
    "mail": "jane.doe@acme.example",
    "command": "tell-the-boss",
    "folder": "acme-secret-folder",
    "home": "/home/janedoe/project",
    "address": "203.0.113.77",
    "id": "deadbeefcafe" + 52 * "1",
    "sentence": "acme lost its memory",
    "machine": "acme-gpu-17",
    "group": "acme-mergers",
    "user": "janedoe",
}
ENVIRONMENT = {
    "CONVGPU_TOKEN": SECRETS["token"],
    "DOCKER_HOST": f"tcp://jane:{SECRETS['password']}@{SECRETS['host']}:2376",
    "SOMETHING": f"a={SECRETS['folder']}",
    "PATH": "/usr/bin:/bin",
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a daemon in which everything that can be named is a secret."""
    monkeypatch.setattr(socket, "gethostname", lambda: SECRETS["machine"])
    monkeypatch.setattr(getpass, "getuser", lambda: SECRETS["user"])
    config = tmp_path / "config.toml"
    config.write_text(
        f'notify_command = "/opt/{SECRETS["command"]} {SECRETS["token"]}"\non_bypass = "notify"\n'
        f'[groups.{SECRETS["group"]}]\nlimit = "20GiB"\n'
    )
    process = ProcessStatus(pid=7, comm=SECRETS["program"], used_bytes=GIB)
    finding = FindingStatus(
        kind="bypass", uuid=GPU_UUID, reason=SECRETS["reason"], pids=(7,), since="2026-11-28T09:00:00Z", action="log",
        container_id=SECRETS["id"], container_name=SECRETS["container"],
    )  # fmt: skip
    named = replace(
        container_status(SECRETS["container"], device_usage(GIB, 5 * GIB, processes=(process,))),
        container_id=SECRETS["id"],
        image=SECRETS["image"],
        group=SECRETS["group"],
        findings=(finding,),
    )
    snapshot = sample_snapshot()
    waiting = replace(
        snapshot.queue[0], container_name=SECRETS["container"], container_id=SECRETS["id"], comm=SECRETS["program"],
        place=f"created after {SECRETS['container']}", goes_on=f"the end of {SECRETS['container']}",
        enough=(SECRETS["id"],), group=SECRETS["group"], full_group=SECRETS["group"],
    )  # fmt: skip
    held = GroupUsage(
        uuid=GPU_UUID, index=0, limit_bytes=20 * GIB, source="configuration", assigned_bytes=GIB, used_bytes=GIB,
        waiting=1, over=False,
    )  # fmt: skip
    witness = WitnessStatus(
        running=True, reason=None, attached=("uprobe:cuMemAlloc_v2",),
        missing=("uprobe cuMemFree", f"{SECRETS['program']}[7]: maps no CUDA runtime"), lost={"ring_full": 2},
    )  # fmt: skip
    snapshot = replace(
        snapshot, containers=(*snapshot.containers, named), queue=(waiting,), witness=witness,
        groups=(GroupStatus(name=SECRETS["group"], containers=(SECRETS["container"],), devices=(held,)),),
        audit_path=f"/{SECRETS['folder']}/audit.jsonl", undecided=(SECRETS["sentence"],),
    )  # fmt: skip
    paths = RunPaths(tmp_path)
    with FakeControlServer(snapshot, paths.control_socket, Layers(config)) as server:
        server.events.append(
            LogEvent(
                seq=1,
                ts="2026-11-28T09:00:00Z",
                mono_ns=1,
                type="decision.denied",
                sentence=SECRETS["sentence"],
                container_name=SECRETS["container"],
                container_id=SECRETS["id"],
                comm=SECRETS["program"],
                reason=SECRETS["reason"],
                size_bytes=GIB,
            )
        )
        yield Machine(root=tmp_path, paths=paths)


FINDINGS = [
    Finding(
        name="Docker",
        status="fail",
        detail=f"no answer from tcp://jane:{SECRETS['password']}@{SECRETS['host']}:2376 ({SECRETS['address']}), "
        f"{SECRETS['mail']}, {SECRETS['home']}/x, container {SECRETS['container']}, {SECRETS['id'][:12]}, "
        f"on {SECRETS['machine']} by {SECRETS['user']}",
        fix=f"ask {SECRETS['mail']}",
    )
]


def unpacked(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}


def test_no_planted_secret_is_in_it(machine, tmp_path):
    file = tmp_path / "bundle.tar.gz"
    write(file, FINDINGS, machine, ENVIRONMENT)
    raw = gzip.decompress(file.read_bytes())
    planted = {**SECRETS, "short id": SECRETS["id"][:12]}
    found = {kind: secret for kind, secret in planted.items() if secret.encode() in raw}
    assert found == {}
    assert b"bundle.tar" not in file.read_bytes()


def test_the_secrets_were_there_to_be_found(machine):
    """The test above would prove nothing otherwise."""
    from convgpu.api import Client

    with Client(machine.paths.control_socket) as client:
        told = f"{client.snapshot()}{client.config_show()}{list(client.events(follow=False))}{FINDINGS}{ENVIRONMENT}"
    assert {kind for kind, secret in SECRETS.items() if secret not in told} == set()


def test_the_figures_that_a_report_needs_are_in_it(machine):
    members = {name: content.decode() for name, content in collect(FINDINGS, machine, ENVIRONMENT).items()}
    assert set(members) == {"README.txt", *CONTENTS}
    status = json.loads(members["status.json"])
    names = [container["name"] for container in status["containers"]]
    assert names == ["container-1", "container-2", "container-3", "container-4"]
    last = status["containers"][-1]
    assert last["devices"][0]["used_bytes"] == GIB
    assert last["devices"][0]["processes"] == [
        {"pid": 7, "used_bytes": GIB, "witness_bytes": None, "nvml_bytes": None, "estimated": False,
         "witness_partial": False, "comm": "process-2"}
    ]  # fmt: skip
    assert last["findings"][0]["kind"] == "bypass"
    assert status["queue"][0]["container"] == "container-4"
    assert (last["group"], status["groups"][0]["name"]) == ("group-1", "group-1")
    assert status["groups"][0]["devices"][0]["limit_bytes"] == 20 * GIB
    assert status["witness"]["missing"] == ["uprobe cuMemFree"]
    assert status["witness"]["missing_of_programs"] == 1
    settings = {setting["key"]: setting for setting in json.loads(members["settings.json"])}
    assert settings["notify_command"] == {"key": "notify_command", "value": "(set)", "source": "file"}
    assert settings["on_bypass"]["value"] == "notify"
    assert settings["groups.group-1.limit"]["value"] == "20GiB"
    (event,) = json.loads(members["events.json"])
    assert (event["type"], event["size_bytes"]) == ("decision.denied", GIB)
    assert json.loads(members["environment.json"]) == ["CONVGPU_TOKEN", "DOCKER_HOST"]
    (finding,) = json.loads(members["findings.json"])
    assert finding["status"] == "fail"
    assert finding["detail"].startswith("no answer from tcp://(host)")
    assert "container container-4" in finding["detail"]


def test_without_a_daemon_the_rest_is_in_it(tmp_path):
    members = collect(FINDINGS, Machine(root=tmp_path, paths=RunPaths(tmp_path)), ENVIRONMENT)
    assert json.loads(members["status.json"]) == {"error": "DaemonUnavailableError"}
    assert json.loads(members["findings.json"])[0]["name"] == "Docker"


def test_it_is_its_owner_s_alone_and_overwrites_nothing(machine, tmp_path):
    file = tmp_path / "bundle.tar.gz"
    write(file, FINDINGS, machine, ENVIRONMENT)
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        assert {(member.uid, member.uname, member.gname, member.mtime) for member in archive} == {(0, "", "", 0)}
    with pytest.raises(EnvironmentMissingError, match="exists") as raised:
        write(file, FINDINGS, machine, ENVIRONMENT)
    assert "new file" in raised.value.next_step


def test_a_file_that_cannot_be_written_is_said_before_the_checks(machine, tmp_path, monkeypatch):
    def examine(*_arguments, **_more):
        raise AssertionError("the checks ran")

    monkeypatch.setattr(convgpu.doctor, "examine", examine)
    there = tmp_path / "there.tar.gz"
    there.write_text("mine")
    for path in (there, tmp_path / "no folder" / "b.tar.gz"):
        done = CliRunner().invoke(main, ["doctor", "--bundle", str(path)])
        assert done.exit_code == 6
        assert "next: give --bundle another, new file" in done.stderr
    assert there.read_text() == "mine"


def test_the_command_says_what_goes_in_before_and_after(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(convgpu.doctor, "CHECKS", ())
    examine = convgpu.doctor.examine
    checks = (Check("one", lambda _: Verdict("ok", "fine")),)
    monkeypatch.setattr(convgpu.doctor, "examine", lambda paths, **more: examine(paths, checks, **more))
    file = tmp_path / "b.tar.gz"
    done = CliRunner(env={"CONVGPU_RUN_DIR": str(tmp_path)}).invoke(main, ["doctor", "--json", "--bundle", str(file)])
    assert done.exit_code == 0, done.output
    before, _, after = done.stderr.partition("wrote ")
    for name in CONTENTS:
        assert name in before
        assert name in after
    assert json.loads(done.stdout)[0]["name"] == "one"
    assert set(unpacked(file)) == {f"convgpu-bundle/{name}" for name in ("README.txt", *CONTENTS)}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("see https://a.example/x?token=1 now", "see https://(host) now"),
        ("10.0.0.1 and fe80:1:2:3:4::1", "(address) and (address)"),
        ("driver 580.82.07, kernel 5.15.90.1-microsoft", "driver 580.82.07, kernel 5.15.90.1-microsoft"),
        ("/root/.config/x, /usr/lib/x", "(home), /usr/lib/x"),
        ("4f1c2b3a4d5e", "(id)"),
        ("topsecret topsecrets", "(TOKEN) topsecrets"),
    ],
)
def test_what_looks_like_a_secret_is_taken_for_one(text, clean):
    assert Redaction({"TOKEN": "topsecret", "N": "1234567", "B": "no"}).text(text) == clean


def test_a_field_that_comes_later_and_holds_a_name_stays_out():
    @dataclass
    class Later:
        size_bytes: int
        kind: str
        good: bool
        nickname: str
        friends: tuple[str, ...]

    assert figures_of(Later(1, "start", True, "acme", ("acme",))) == {"size_bytes": 1, "kind": "start", "good": True}


def test_that_root_runs_it_is_no_secret():
    assert Redaction({}, ("root", "", "vm")).text("root on vm: no name") == "root on (name): no name"


def test_the_same_word_has_the_same_stand_in_everywhere():
    redaction = Redaction({})
    assert [redaction.of("container", name) for name in ("a1", "b2", "a1")] == [
        "container-1",
        "container-2",
        "container-1",
    ]
    assert redaction.text("a1 waits for b2; a12 does not") == "container-1 waits for container-2; a12 does not"
