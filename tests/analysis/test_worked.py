# SPDX-License-Identifier: Apache-2.0
"""docs/analysis.md: the script runs on the committed log and gives the numbers of the page; others give them too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from convgpu.analysis.export import rows_of
from convgpu.analysis.selection import read_records
from convgpu.analysis.study import study
from convgpu.audit.verify import verify_files

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "analysis"
PAGE = (ROOT / "docs" / "analysis.md").read_text()
LOG = FOLDER / "run.jsonl.gz"


def test_the_script_gives_the_page() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "analysis.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_recording_is_what_was_written() -> None:
    report = verify_files([LOG], key_file=FOLDER / "audit.key.pub")
    assert report.ok
    assert report.sealed_seq == report.head.seq
    assert f"`{report.head}`" in PAGE


def test_the_figures_are_those_of_the_report() -> None:
    """The script works in SQL, `convgpu audit report` in Python: two ways to the same numbers."""
    found = study(rows_of(read_records([LOG])))
    assert found.simulated
    assert f"Here it is **{found.jain:.3f}**" in PAGE
    waiters = [each for each in found.containers.values() if each.waited_ns]
    assert f"{len(waiters)} of {len(found.containers)} containers waited" in PAGE
    longest = max(waiters, key=lambda each: each.waited_ns)
    assert f"{longest.name}, for {longest.waited_ns / 1e9:.1f} s" in PAGE
    assert f"({found.denial_rate:.1%})" in PAGE
    for kind in ("train", "infer", "notebook", "hasty"):
        some = [each for each in found.containers.values() if str(each.name).startswith(kind)]
        near_ns = sum(
            (each.near_limit(device) or 0) * each.stay_ns for each in some for device in each.devices.values()
        )
        (row,) = re.findall(rf"^\| {kind} \| (.*)$", PAGE, re.MULTILINE)
        count, _, near, _, denied, _ = (cell.strip() for cell in row.strip("| ").split("|"))
        assert int(count) == len(some)
        assert near == f"{near_ns / sum(each.stay_ns for each in some):.1%}"
        assert int(denied) == sum(each.decisions["denied"] for each in some)


@pytest.mark.parametrize("name", ["held", "waits", "what-if"])
def test_the_pictures_are_there(name: str) -> None:
    assert f"(analysis/{name}.svg)" in PAGE
    text = (FOLDER / f"{name}.svg").read_text()
    assert text.rstrip().endswith("</svg>")
