# SPDX-License-Identifier: Apache-2.0
"""The text of the eBPF programs, and the words that it defines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, cast

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.witness import EventKind, EventSource, LibraryKind, MemoryKind

_FILES: Final = (
    "common.bpf.h",
    "event.bpf.h",
    "size.bpf.h",
    "call.bpf.h",
    "api.bpf.h",
    "vmm.bpf.h",
    "context.bpf.h",
    "boundary.bpf.h",
    "boundary.bpf.c",
    "libraries.bpf.c",
    "process.bpf.c",
)
"""In this order: a map is declared before it is used."""

_SYMBOL_FOLDERS: Final = ("include", "wrapper")
"""Where symbols.def lies beside the folder of the programs: installed, and in the source tree."""
_INCLUDE_SYMBOLS: Final = '#include "symbols.def"'
_PROBE: Final = re.compile(r"^CVG_PROBE\((\w+), (DRIVER|RUNTIME), (\w+), (\w+), (\w+)\)$", re.MULTILINE)
_SIZE: Final = re.compile(r"^#define (CVG_\w+) (\d+) ", re.MULTILINE)
_LAYERS: Final[Mapping[str, LibraryKind]] = {"DRIVER": "libcuda", "RUNTIME": "libcudart"}
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)


class Probe(NamedTuple):
    """One line of the attach list; the words are explained in symbols.def."""

    symbol: str
    library: LibraryKind
    action: str
    memory: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfSource:
    """All programs as the one text that bcc compiles.

    Attributes:
        text: The files one after the other; compiler messages name the files.
        folder: Where they lie.
        losses: Names of what is counted in the map `losses`, by index.
        sources: Names of what an event or balance comes from, by number.
        kinds: Names of kinds of events, by number.
        memories: Names of kinds of memory, by number.
        apis: Names of calls, by number; the number of no call has the empty name.
        probes: The attach list.
        sizes: The sizes of maps that a macro gives as a plain number, by its name.
    """

    text: bytes
    folder: Path
    losses: tuple[str, ...]
    sources: tuple[EventSource, ...]
    kinds: tuple[EventKind, ...]
    memories: tuple[MemoryKind, ...]
    apis: tuple[str, ...]
    probes: tuple[Probe, ...]
    sizes: Mapping[str, int]

    def symbols(self, library: LibraryKind) -> tuple[str, ...]:
        """Return the functions that are watched in a kind of library; the first tells such a library from others."""
        return tuple(probe.symbol for probe in self.probes if probe.library == library)


def read_source(folder: Path) -> BpfSource:
    """Read the programs and the attach list.

    Args:
        folder: Absolute path of the installed `bpf` folder.

    Raises:
        EnvironmentMissingError: A file is missing.
    """
    try:
        files = {name: (folder / name).read_text() for name in _FILES}
        definitions = _symbols_file(folder).read_text()
    except OSError as error:
        raise EnvironmentMissingError(
            f"the sources of the eBPF programs cannot be read: {error}", next_step="reinstall the package"
        ) from error
    common = files["common.bpf.h"]
    # bcc looks for programs in its main text alone, so the list goes into it.
    lines = [match[0] for match in _PROBE.finditer(definitions)]
    text = "".join(f'#line 1 "{name}"\n{_with_list(name, body, lines)}' for name, body in files.items())
    probes = tuple(
        Probe(symbol, _LAYERS[layer], action, memory, size)
        for symbol, layer, action, memory, size in _PROBE.findall(definitions)
    )
    boundary = tuple("" if word == "none" else word.upper() for word in _words(common, "api"))
    return BpfSource(
        text=text.encode(),
        folder=folder,
        losses=_words(common, "loss"),
        sources=cast("tuple[EventSource, ...]", _words(common, "source")),
        kinds=cast("tuple[EventKind, ...]", _words(common, "kind")),
        memories=cast("tuple[MemoryKind, ...]", _words(common, "memory")),
        apis=(*boundary, *(probe.symbol for probe in probes)),
        probes=probes,
        sizes={name: int(number) for name, number in _SIZE.findall(common)},
    )


def _symbols_file(folder: Path) -> Path:
    candidates = [folder.parent / name / "symbols.def" for name in _SYMBOL_FOLDERS]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _with_list(name: str, text: str, lines: list[str]) -> str:
    """Return a file with the attach list in the place of each include of it; line numbers stay those of the file."""
    done = []
    for number, line in enumerate(text.splitlines(), 1):
        if line == _INCLUDE_SYMBOLS:
            done += ['#line 1 "symbols.def"', *lines, f'#line {number + 1} "{name}"']
        else:
            done.append(line)
    return "\n".join(done) + "\n"


def _words(text: str, enum: str) -> tuple[str, ...]:
    """Return the members of an enum whose values count from 0, in lower case and without the enum's name in front."""
    _, _, rest = text.partition(f"enum {enum} {{")
    body = "\n".join(line for line in rest.partition("}")[0].splitlines() if not line.startswith("#"))
    members = _COMMENT.sub("", body).replace(",", " ").split()
    prefix = f"{enum.upper()}_"
    return tuple(member.removeprefix(prefix).lower() for member in members if member != f"{prefix}KINDS")
