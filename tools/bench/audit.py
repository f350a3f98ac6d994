# SPDX-License-Identifier: Apache-2.0
"""Measure the audit log: how fast records are appended and verified, and whether any changed byte is found.

    python3 tools/bench/audit.py --out DIR [--records 1000000] [--folder DIR]

The records are those of the recorded run (docs/analysis/run.jsonl.gz), again and again. Appending is as the daemon does
it: `Disk` brings to the disk what was written, all in one go, files begin anew at 256 MiB, seals are signed. Writes
table.md, samples.jsonl and environment.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from convgpu.analysis.export import export
from convgpu.analysis.selection import read_records
from convgpu.audit.builder import Event
from convgpu.audit.fields import COMMON_FIELDS
from convgpu.audit.files import Rotation, log_files
from convgpu.audit.keys import generate, load_signer
from convgpu.audit.seal import SEAL, Sealing
from convgpu.audit.verify import verify, verify_files
from convgpu.audit.writer import AuditWriter
from convgpu.daemon.audit_log import Disk

ROOT: Final = Path(__file__).resolve().parents[2]
RECORDED: Final = ROOT / "docs" / "analysis" / "run.jsonl.gz"
MIB: Final = 1024 * 1024
TARGETS: Final = {"append": 20_000.0, "verify": 20.0}
"""Records a second at least; seconds for a million records at most."""
REPEATS: Final = 3
EXPORTED: Final = 200_000


def events() -> Iterator[Event]:
    """Return the recorded events, without end; times are those of the moment."""
    recorded = [
        (record["type"], record["msg"], {name: record[name] for name in record.keys() - COMMON_FIELDS.keys()})
        for record in read_records([RECORDED])
        if record["type"] not in (SEAL, "log.rotated")
    ]
    for kind, message, fields in cycle(recorded):
        yield Event(kind, message, fields, time.time_ns(), time.monotonic_ns())


def append(log: Path, key: Path, records: int, at_a_time: int) -> float:
    """Return records a second, from the first write until the last one is on the disk."""
    writer = AuditWriter(
        log,
        inline_sync=False,
        rotation=Rotation(max_bytes=256 * MIB),
        sealing=Sealing(60_000_000_000, load_signer(key)),
    )
    disk = Disk(writer)
    disk.start()
    source = events()
    next(source)  # the recording is read
    began_s = time.perf_counter()
    for _ in range(records // at_a_time):
        writer.write_events([next(source) for _ in range(at_a_time)])
        if writer.urgent:
            disk.ask()
        writer.tend(time.monotonic_ns())
    disk.close()
    writer.close()
    lasted_s = time.perf_counter() - began_s
    if writer.lost:
        sys.exit(f"{writer.lost} records were lost: {writer.losses.reason}")
    return records / lasted_s


def small_log(folder: Path, key: Path) -> tuple[bytes, int]:
    """Return a log of a few records and a signed seal, and where the sealed range ends."""
    path = folder / "small" / "audit.jsonl"
    source = events()
    with AuditWriter(path, sealing=Sealing(10**18, load_signer(key))) as writer:
        for _ in range(3):
            writer.write_events([next(source)])
    content = path.read_bytes()
    return content, content.rstrip(b"\n").rfind(b"\n") + 1


def changed_bytes(content: bytes, sealed: int) -> tuple[int, int]:
    """Change every byte before the seal to each of the 255 others; return how many were tried, and how many missed."""
    missed = tried = 0
    changed = bytearray(content)
    for place in range(sealed):
        for value in range(256):
            if value == content[place]:
                continue
            changed[place] = value
            tried += 1
            missed += verify(BytesIO(bytes(changed))).ok
        changed[place] = content[place]
    return tried, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the log is written: on the disk to be measured")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    samples: list[dict[str, Any]] = []

    def sample(what: str, **figures: Any) -> None:
        samples.append({"what": what, **figures})
        print(json.dumps(samples[-1]), flush=True)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as kept:
        folder = Path(kept)
        key = folder / "audit.key"
        generate(key)
        for at_a_time in (1, 32):
            for repeat in range(REPEATS):
                log = folder / f"append-{at_a_time}-{repeat}" / "audit.jsonl"
                rate = append(log, key, arguments.records // 5, at_a_time)
                sample("append", at_a_time=at_a_time, records=arguments.records // 5, records_per_s=rate)
        log = folder / "long" / "audit.jsonl"
        append(log, key, arguments.records, 32)
        files = log_files(log)
        size = sum(path.stat().st_size for path in files)
        public = key.with_name(key.name + ".pub")
        for processes in (1, len(os.sched_getaffinity(0))):
            for _ in range(REPEATS):
                began_s = time.perf_counter()
                report = verify_files(files, key_file=public, processes=processes)
                lasted_s = time.perf_counter() - began_s
                if not report.ok or report.records < arguments.records:
                    sys.exit(f"the log does not verify: {report}")
                sample(
                    "verify", processes=processes, records=report.records, bytes=size, files=len(files),
                    seconds=lasted_s, seconds_per_million=lasted_s * 1_000_000 / report.records,
                )  # fmt: skip
        part = folder / "part" / "audit.jsonl"
        append(part, key, EXPORTED, 32)
        for to in ("csv", "sqlite", "parquet"):
            began_s = time.perf_counter()
            rows = export(read_records(log_files(part)), folder / f"out-{to}", to)
            sample("export", to=to, records=EXPORTED, rows=sum(rows.values()), seconds=time.perf_counter() - began_s)
        content, sealed = small_log(folder, key)
        began_s = time.perf_counter()
        tried, missed = changed_bytes(content, sealed)
        sample("changed bytes", bytes=sealed, changes=tried, missed=missed, seconds=time.perf_counter() - began_s)
    (arguments.out / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in samples))
    (arguments.out / "environment.json").write_text(json.dumps(environment(arguments.records), indent=2) + "\n")
    text, met = table(samples)
    (arguments.out / "table.md").write_text(text)
    print(text)
    return 0 if met else 1


def environment(records: int) -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "command": f"python3 tools/bench/audit.py --records {records} --out DIR",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": cpu.partition(": ")[2],
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def table(samples: list[dict[str, Any]]) -> tuple[str, bool]:
    """Return the table, and whether every target is met."""
    lines = ["| what | asked | measured (worst of the runs) | met |", "|---|---|---|---|"]
    verdicts = []

    def line(what: str, asked: str, measured: str, *, met: bool) -> None:
        verdicts.append(met)
        lines.append(f"| {what} | {asked} | {measured} | {'yes' if met else '**MISSED**'} |")

    for at_a_time in (1, 32):
        rates = [
            each["records_per_s"] for each in samples if each["what"] == "append" and each["at_a_time"] == at_a_time
        ]
        asked = f">= {TARGETS['append']:,.0f} records/s"
        line(
            f"append, {at_a_time} at a time, all on the disk",
            asked,
            f"{min(rates):,.0f}",
            met=min(rates) >= TARGETS["append"],
        )
    found = [each for each in samples if each["what"] == "verify"]
    most = max(each["processes"] for each in found)
    for processes in dict.fromkeys(each["processes"] for each in found):
        times = [each["seconds_per_million"] for each in found if each["processes"] == processes]
        what = f"verify 1,000,000 records, signed seals, {processes} process{'' if processes == 1 else 'es'}"
        if processes == most:  # as the command does it
            line(what, f"< {TARGETS['verify']:.0f} s", f"{max(times):.1f} s", met=max(times) < TARGETS["verify"])
        else:
            lines.append(f"| {what} | | {max(times):.1f} s | |")
    for each in samples:
        if each["what"] == "changed bytes":
            what = f"every byte of a sealed range of {each['bytes']} changed to each of the 255 others"
            line(what, "all found", f"{each['changes'] - each['missed']} of {each['changes']}", met=each["missed"] == 0)
    exports = [f"{each['to']} {each['seconds']:.1f} s" for each in samples if each["what"] == "export"]
    lines.append(f"| export {EXPORTED:,} records | | {', '.join(exports)} | |")
    return "\n".join(lines) + "\n", all(verdicts)


if __name__ == "__main__":
    sys.exit(main())
