# SPDX-License-Identifier: Apache-2.0
"""What the troubleshooting page says one sees is what the program says."""

from __future__ import annotations

import re

import pages
import pytest

PAGE = pages.page("docs/troubleshooting.md")
OTHERS = ("unknown or invalid runtime name", "docker ", "running (", "nvidia-smi", "convgpu ", "audit verify")
"""What Docker says; commands; states, which are put together from words."""
_BETWEEN_STRINGS = re.compile(r'"\s*\n\s*f?"')
_VARIABLE = re.compile(r"\.\.\.|\d+GiB|'[^']*'|\b[\w.]+: ")


def sources() -> str:
    """Return the program's text, with strings that go over several lines put together."""
    found = [*(pages.ROOT / "convgpu").rglob("*.py"), *(pages.ROOT / "wrapper").rglob("*.c")]
    return _BETWEEN_STRINGS.sub("", "".join(path.read_text() for path in found))


def seen() -> list[str]:
    """Return the messages in the first column of the tables."""
    cells = [line.split("|")[1] for line in PAGE.prose.splitlines() if line.startswith("| ")]
    codes = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    return [code for code in codes if " " in code and not code.startswith(OTHERS)]


def fragments(message: str) -> list[str]:
    """Return the parts of a message that are the same each time."""
    return [part.strip(" ,'") for part in _VARIABLE.split(message) if len(part.strip(" ,'")) > 4]


TEXT = sources()


@pytest.mark.parametrize("message", seen())
def test_the_program_says_so(message: str) -> None:
    assert fragments(message)
    assert [part for part in fragments(message) if part not in TEXT] == []


def test_there_are_messages() -> None:
    assert len(seen()) >= 10
    assert "said by nobody at all" not in TEXT
