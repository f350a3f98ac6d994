# SPDX-License-Identifier: Apache-2.0
"""The manual pages: one for each command; troff reads it, the wheel brings it, `test_listing` holds it to the help."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from convgpu.cli.main import main
from convgpu.errors import exit_statuses

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "man").glob("*.1"))
GROFF = shutil.which("groff")
needs_groff = pytest.mark.skipif(GROFF is None, reason="groff is not installed: tools/setup --test")


def command_names(command=main, words=("convgpu",)):
    yield "-".join(words)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from command_names(command.get_command(context, name), (*words, name))


def rendered(page):
    done = subprocess.run(
        [GROFF, "-man", "-Tascii", "-P-c", "-rLL=100n", "-ww", page], capture_output=True, text=True, check=True
    )
    assert done.stderr == "", f"{page.name}: {done.stderr}"
    plain = subprocess.run(["col", "-bx"], input=done.stdout, capture_output=True, text=True, check=True)
    return plain.stdout


def test_there_is_a_page_for_each_command_and_no_other():
    assert sorted(page.stem for page in PAGES) == sorted(command_names())


@needs_groff
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_troff_reads_it_without_a_warning_and_it_has_what_a_reader_looks_for(page):
    text = rendered(page)
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLE", "SEE ALSO"):
        assert f"\n{heading}" in text, heading
    assert f"{page.stem} - " in " ".join(text.split())


@needs_groff
def test_what_troff_would_take_for_its_own_is_shown_as_it_is():
    text = rendered(ROOT / "docs" / "man" / "convgpu-ps.1")
    assert "convgpu ps --format json | jq '.[].devices[].used_bytes'" in text
    assert "--run-dir DIRECTORY" in text


@needs_groff
def test_the_first_page_has_every_exit_status():
    text = " ".join(rendered(ROOT / "docs" / "man" / "convgpu.1").split())
    for status in exit_statuses():
        assert f" {status.code} {status.meaning}" in text


def test_the_wheel_brings_them_to_where_man_looks():
    installed = Path(sys.prefix) / "share" / "man" / "man1"
    assert {page.name for page in installed.glob("convgpu*.1")} >= {"convgpu.1", "convgpu-ps.1", "convgpu-limit-set.1"}
