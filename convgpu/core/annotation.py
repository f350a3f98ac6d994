# SPDX-License-Identifier: Apache-2.0
"""A note that somebody puts into the audit log, and its receipt. Both travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from convgpu.errors import UsageError

LONGEST_NOTE: Final = 4000
"""Characters: a note is a sentence or two, and a record is one line."""


def check_note(text: str) -> str:
    """Return a note as it is written, without white space at its ends.

    Raises:
        UsageError: It is empty or too long.
    """
    text = text.strip()
    if not text:
        raise UsageError("the note is empty: write what is to be in the log")
    if len(text) > LONGEST_NOTE:
        raise UsageError(f"the note has {len(text)} characters, and {LONGEST_NOTE} are allowed")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateArguments:
    """Arguments of `annotate`.

    Attributes:
        text: One line or several, at most `LONGEST_NOTE` characters.
        container: The container that it is about, by name, id or a prefix of the id; None: no single one.
    """

    text: str
    container: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """The note is record `seq`; `head_seq` and `head_hash` are what to keep to prove later that it was there."""

    seq: int
    head_seq: int
    head_hash: str
