# SPDX-License-Identifier: Apache-2.0
"""What the page for researchers does with a recorded log does work, on the log of the worked analysis."""

from __future__ import annotations

import gzip
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pages
import pytest

RECORDED = pages.ROOT / "docs" / "analysis" / "run.jsonl.gz"
PAGE = pages.page("docs/how-to/researchers.md")
LOG = "/data/run-1/log"


def command_lines() -> list[str]:
    """Return the page's lines that read a log, in their order; those with sudo are for a daemon."""
    lines = [line for block in PAGE.blocks if block.language == "sh" for line in block.text.splitlines()]
    return [line for line in lines if line.startswith(("convgpu audit", "convgpu replay"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log; the lines are run in it one after another, as they build on each other."""
    made = tmp_path_factory.mktemp("research")
    (made / "log").mkdir()
    (made / "log" / "audit.jsonl").write_bytes(gzip.decompress(RECORDED.read_bytes()))
    return made


@pytest.mark.parametrize("line", command_lines())
def test_the_line_works(line: str, folder: Path) -> None:
    words = shlex.split(line.replace(LOG, str(folder / "log")), comments=True)[1:]
    target = words[words.index(">") + 1] if ">" in words else None
    code = "from convgpu.cli.main import main; main(prog_name='convgpu')"
    plain = words[: words.index(">")] if target else words
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, *plain], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    for option in ("-o", "--plot"):
        target = words[words.index(option) + 1] if option in words else target
    if target and ">" not in words:
        made = folder / target
        assert made.stat().st_size > 0
        assert not made.is_dir() or any(made.iterdir())
    else:
        assert done.stdout


def test_nothing_is_left_out() -> None:
    verbs = {words[2] if words[1] == "audit" else words[1] for words in map(str.split, command_lines())}
    assert verbs == {"verify", "head", "report", "export", "query", "keygen", "replay"}
