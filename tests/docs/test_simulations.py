# SPDX-License-Identifier: Apache-2.0
"""The simulations that pages show do run, and come to what the pages say."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pages
import pytest


def simulations() -> list[tuple[str, list[str]]]:
    """Return each `convgpu simulate` of a block, with the page that it is on."""
    found = []
    for page in pages.pages():
        for block in page.blocks:
            lines = block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else []
            for line in lines:
                words = shlex.split(line, comments=True)
                if words[:2] == ["convgpu", "simulate"] and "workload.toml" not in words:  # a file of the reader's
                    found.append((page.name, words[1:]))
    return found


def run(words: list[str], folder: Path) -> str:
    """Run a command line as a shell would, in a folder that has the project's examples."""
    (folder / "docs").symlink_to(pages.ROOT / "docs")
    plain = words[: words.index(">")] if ">" in words else words
    code = "from convgpu.cli.main import main; main(prog_name='convgpu')"
    command = [sys.executable, "-c", code, *plain]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


SIMULATIONS = simulations()


@pytest.mark.parametrize(
    ("page", "words"), SIMULATIONS, ids=[f"{page}: {shlex.join(words)}" for page, words in SIMULATIONS]
)
def test_it_runs(page: str, words: list[str], tmp_path: Path) -> None:
    assert run(words, tmp_path)


def test_there_are_simulations() -> None:
    assert len(SIMULATIONS) >= 8


def test_how_many_notebooks_are_told_that_there_is_no_memory(tmp_path: Path) -> None:
    (line,) = [words for page, words in SIMULATIONS if page == "docs/how-to/notebooks.md"]
    prose = " ".join(pages.page("docs/how-to/notebooks.md").prose.split())
    for sizes, failed in (("8GiB", 31), ("2GiB", 0)):
        words = [sizes if word == "8GiB" else word for word in line]
        folder = tmp_path / sizes
        folder.mkdir()
        records = json.loads(run([*words, "--format", "json"], folder))
        assert {record["summary"]["failed"] for record in records} == {failed}
    assert "31 of 40" in prose
    assert "`--sizes 2GiB`), and nobody is" in prose


def test_the_last_simulation_for_researchers_shows_a_deadlock(tmp_path: Path) -> None:
    lines = [words for page, words in SIMULATIONS if page == "docs/how-to/researchers.md" and "--unsafe" in words]
    assert "deadlock" in run(lines[-1], tmp_path)
