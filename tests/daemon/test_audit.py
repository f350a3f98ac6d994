# SPDX-License-Identifier: Apache-2.0
"""The daemon's audit log as its settings want it: seals, files, notes, and a disk that takes no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from house import House

from convgpu.audit.files import log_files, read_lines
from convgpu.audit.keys import generate
from convgpu.audit.verify import verify
from convgpu.core.units import GIB
from convgpu.daemon.service import Service
from convgpu.errors import AuditError, UnknownContainerError, UsageError

pytestmark = pytest.mark.root

SECOND = 1_000_000_000


def test_a_note_is_a_record_with_who_wrote_it(house: House) -> None:
    house.start()
    house.container("alpha", limit="4GiB")
    with house.client() as client:
        house.until("it is known", client.limit_list)
        noted = client.annotate("begin of run 3", "alpha")
        plain = client.annotate(" end of it \n")
        with pytest.raises(UnknownContainerError):
            client.annotate("x", "nobody")
        with pytest.raises(UsageError):
            client.annotate("")
    first, second = house.records("note")
    assert (first["seq"], first["text"], first["container"]["name"]) == (noted.seq, "begin of run 3", "alpha")
    assert first["by_uid"] == os.getuid()
    assert (second["seq"], second["text"]) == (plain.seq, "end of it")
    assert "container" not in second
    assert verify(house.log, f"{plain.head_hash}").ok, "the receipt is a head of the log"


def test_seals_are_set_in_time_and_signed_with_the_key(house: House, tmp_path: Path) -> None:
    public, _ = generate(tmp_path / "audit.key")
    house.settings = {"audit_seal_interval_ns": SECOND // 10, "audit_key": tmp_path / "audit.key"}
    house.start()
    house.until("a seal is set", lambda: house.records("seal"))
    house.stop()
    assert [seal["reason"] for seal in house.records("seal")][-1] == "stop"
    report = verify(house.log, key_file=public)
    assert report.ok
    assert report.sealed_seq == report.head.seq, "to its last record"


def test_a_key_that_is_not_there_is_said_at_the_start(house: House, tmp_path: Path) -> None:
    house.settings = {"audit_key": tmp_path / "none"}
    with pytest.raises(AuditError, match="cannot read the key"):
        Service(house.layers, house.docker, house.nvml, None)


def test_the_log_goes_on_in_a_new_file_and_after_a_restart(house: House) -> None:
    house.settings = {"audit_max_size_bytes": 4096}
    house.start()
    container = house.container("alpha", limit="4GiB")
    peer = house.peer(container)
    peer.do("hello")
    for _ in range(8):
        peer.do("acquire", GIB // 8)
        assert peer.do("answer")["type"] == "GRANTED"
    house.stop()
    files = log_files(house.log)
    assert len(files) > 2
    house.start()
    house.stop()
    assert verify(house.log).ok
    records = [json.loads(line) for line in read_lines(log_files(house.log))]
    assert [record["type"] for record in records].count("daemon.start") == 2
    assert len([record for record in records if record["type"] == "decision.granted"]) == 8
    assert len([record for record in records if record["type"] == "log.rotated"]) == len(log_files(house.log)) - 1


def served(folder: Path, policy: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon whose log lies on a tmpfs of 1 MiB that nobody else sees, next to a shell script."""
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1/log" && exec sh -c "$2" sh "$@"'
    (folder / "log").mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(folder), script]
    result = subprocess.run(
        [*command, sys.executable, str(Path(__file__).parent / "full_disk.py"), policy],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "mount: " in result.stderr or "unshare: " in result.stderr:
        give_up = pytest.fail if os.environ.get("CONVGPU_REQUIRE_PRIVILEGED") == "1" else pytest.skip
        give_up(f"no private tmpfs can be mounted here: {result.stderr.strip()}")
    return result


RUN = '"$3" -P "$4" "$1" "$5"'


def test_a_full_disk_with_continue_goes_on_and_is_said_when_there_is_space(tmp_path: Path) -> None:
    done = served(tmp_path, "continue", RUN)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["granted"] == 30, "decisions go on without the log"
    assert told["stopped"] is False
    types = [record["type"] for record in told["records"]]
    losses = [record for record in told["records"] if record["type"] == "loss"]
    assert sum(loss["count"] for loss in losses) + types.count("decision.granted") >= 30, "each is written or counted"
    assert sum(loss["count"] for loss in losses) > 20
    assert {loss["reason"] for loss in losses} == {"not written: No space left on device"}
    assert types[-3:] == ["note", "daemon.stop", "seal"]
    assert "cannot take what happens (No space left on device): it is counted" in done.stderr


def test_a_full_disk_with_stop_ends_the_daemon(tmp_path: Path) -> None:
    done = served(tmp_path, "stop", RUN)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["stopped"] is True
    assert "on_audit_failure is stop: the daemon stops, and allocations wait" in told["error"]
    assert told["granted"] < 30


class AheadClock:
    boot_id = ""

    def wall_ns(self) -> int:
        return time.time_ns() + 60 * SECOND

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


def test_a_wall_clock_that_is_set_is_in_the_log(house: House) -> None:
    house.start()
    assert house.service is not None
    house.service.journal.clock_watch._clock = AheadClock()
    (jump,) = house.until("it is noticed", lambda: house.records("clock.jump"))
    assert abs(jump["jump_ns"] - 60 * SECOND) < SECOND
    assert jump["msg"].startswith("the wall clock jumped ")
    assert jump["msg"].endswith(" s ahead")


def test_losses_are_said_without_another_record(house: House) -> None:
    house.start()
    assert house.service is not None
    writer = house.service.journal._writer
    house.service.guard.loop.call_soon_threadsafe(lambda: setattr(writer.losses, "records", 3))
    (loss,) = house.until("it is said", lambda: house.records("loss"))
    assert loss["count"] == 3
    time.sleep(0.3)
    assert len(house.records("loss")) == 1
