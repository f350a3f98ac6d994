# SPDX-License-Identifier: Apache-2.0
"""The text of the eBPF programs, and the words that it defines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.witness import EventKind, EventSource, LibraryKind

_FILES: Final = (
    "common.bpf.h",
    "api.bpf.h",
    "boundary.bpf.h",
    "boundary.bpf.c",
    "driver.bpf.c",
    "runtime.bpf.c",
    "process.bpf.c",
)
"""In this order: a map is declared before it is used."""

_LIBRARY_FILES: Final[Mapping[LibraryKind, str]] = {"libcuda": "driver.bpf.c", "libcudart": "runtime.bpf.c"}

_PROBE: Final = re.compile(r"^int uprobe__(\w+)\(", re.MULTILINE)
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfSource:
    """All programs as the one text that bcc compiles.

    Attributes:
        text: The files one after the other; compiler messages name the files.
        folder: Where they lie.
        losses: Names of what is counted in the map `losses`, by index.
        sources: Names of what an event or balance comes from, by number.
        kinds: Names of kinds of events, by number.
        symbols: The functions that are watched in each kind of library, as the programs' names say.
    """

    text: bytes
    folder: Path
    losses: tuple[str, ...]
    sources: tuple[EventSource, ...]
    kinds: tuple[EventKind, ...]
    symbols: Mapping[LibraryKind, tuple[str, ...]]


def read_source(folder: Path) -> BpfSource:
    """Read the programs.

    Args:
        folder: Absolute path of the installed `bpf` folder.

    Raises:
        EnvironmentMissingError: A file is missing.
    """
    try:
        files = {name: (folder / name).read_text() for name in _FILES}
    except OSError as error:
        raise EnvironmentMissingError(
            f"the sources of the eBPF programs cannot be read: {error}", next_step="reinstall the package"
        ) from error
    common = files["common.bpf.h"]
    return BpfSource(
        text="".join(f'#line 1 "{name}"\n{text}' for name, text in files.items()).encode(),
        folder=folder,
        losses=_words(common, "loss"),
        sources=cast("tuple[EventSource, ...]", _words(common, "source")),
        kinds=cast("tuple[EventKind, ...]", _words(common, "kind")),
        symbols={kind: tuple(_PROBE.findall(files[name])) for kind, name in _LIBRARY_FILES.items()},
    )


def _words(text: str, enum: str) -> tuple[str, ...]:
    """Return the members of an enum whose values count from 0, in lower case and without the enum's name in front."""
    _, _, rest = text.partition(f"enum {enum} {{")
    members = _COMMENT.sub("", rest.partition("}")[0]).replace(",", " ").split()
    prefix = f"{enum.upper()}_"
    return tuple(member.removeprefix(prefix).lower() for member in members if member != f"{prefix}KINDS")
