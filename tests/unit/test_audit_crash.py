# SPDX-License-Identifier: Apache-2.0
"""Real crashes and a really full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convgpu.audit.verify import verify
from convgpu.audit.writer import AuditWriter

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

ENDLESS = """
import sys
from pathlib import Path
from convgpu.audit.writer import AuditWriter
writer = AuditWriter(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    process = {"pid": 1, "start_ticks": 2}
    writer.write("witness.alloc", process=process, source="driver", size_bytes=number, api="x" * (number % 9000))
    print(*writer.head, flush=True)
"""

FILL = """
import json, sys
from pathlib import Path
from convgpu.audit.writer import AuditWriter
folder = Path(sys.argv[1])
ballast = folder / "ballast"
ballast.write_bytes(bytes(512 * 1024))
writer = AuditWriter(folder / "audit.jsonl")
event = dict(process={"pid": 1, "start_ticks": 2}, source="driver", size_bytes=1)
lost = sum(writer.write("witness.alloc", **event) is None for _ in range(4000))
ballast.unlink()
written = writer.write("decision.denied", container={"id": "c"}, reason="limit", waited_ns=0, **{
    key: event[key] for key in ("process", "size_bytes")})
writer.close()
print(json.dumps({"lost": lost, "written": written, "log": (folder / "audit.jsonl").read_text()}))
"""


@pytest.mark.parametrize("after_s", [0.0, 0.013, 0.037, 0.111])
def test_a_writer_killed_in_the_middle_loses_nothing_it_said_it_wrote(tmp_path: Path, after_s: float) -> None:
    log = tmp_path / "audit.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(log)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline()]
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
    whole = [line.split() for line in said if line.endswith("\n")]
    with AuditWriter(log) as writer_after:
        writer_after.write("daemon.stop")
    report = verify(log, whole[-1][1])
    assert report.ok
    assert report.torn_bytes == 0
    assert report.records >= int(whole[-1][0]) + 1


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(log)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        second = subprocess.run(
            [sys.executable, "-c", ENDLESS, str(log)], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )
        writer.kill()
    assert f"another process (pid {writer.pid}) writes the audit log" in second.stderr
    AuditWriter(log).close()


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    """On a tmpfs of 1 MiB, mounted where nobody else sees it."""
    mount = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    result = subprocess.run(
        [*mount, script, "sh", str(tmp_path), sys.executable, FILL],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    if "mount: " in result.stderr or "unshare: " in result.stderr:
        give_up = pytest.fail if os.environ.get("CONVGPU_REQUIRE_PRIVILEGED") == "1" else pytest.skip
        give_up(f"no private tmpfs can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    records = [json.loads(line) for line in answer["log"].splitlines()]
    assert answer["lost"] > 0
    assert [record["type"] for record in records[-2:]] == ["loss", "decision.denied"]
    assert records[-2]["count"] == answer["lost"]
    assert answer["written"] == len(records)
    assert verify([line.encode() + b"\n" for line in answer["log"].splitlines()]).ok
