# SPDX-License-Identifier: Apache-2.0
"""The configuration file: TOML in, values by full name out, and everything that is wrong with it at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convgpu.config.forms import nearest
from convgpu.config.groups import ALL_GPUS, GROUP_LIMIT, GROUP_TABLE, full_name
from convgpu.config.key import Key
from convgpu.config.keys import BY_NAME, DEVICE_TABLE, GROUP_KEY, KEYS
from convgpu.core.groups import parse_group
from convgpu.errors import ConfigError, UsageError

DEVICE_NAME: Final = re.compile(r"\d{1,4}|GPU-[0-9A-Fa-f-]+", re.ASCII)
"""How a GPU is named: NVML's index or UUID."""

_PER_DEVICE: Final = tuple(key.name for key in KEYS if key.per_device)
_NEXT_STEP: Final = "correct the file; `convgpu config check` lists all that is wrong with it"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong. `line` counts from 1; 0: it concerns the whole file."""

    line: int
    text: str

    def at(self, path: Path) -> str:
        """Return the problem with its place, as compilers write it."""
        return f"{path}:{self.line}: {self.text}" if self.line else f"{path}: {self.text}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says: values by full name, and what is wrong with it, in the order of its lines."""

    values: Mapping[str, Any]
    problems: tuple[Problem, ...]


def config_error(path: Path, problems: tuple[Problem, ...]) -> ConfigError:
    """Return the error for what is wrong with a file, one line a problem."""
    return ConfigError("\n".join(problem.at(path) for problem in problems), next_step=_NEXT_STEP)


def read_text(path: Path) -> str:
    """Read the file.

    Raises:
        ConfigError: It is not there, may not be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise config_error(path, (Problem(0, f"it is not a text in UTF-8: {error.reason}"),)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def parse(text: str) -> Contents:
    """Read the text of a file."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Contents({}, (_syntax_problem(str(error), text),))
    return _Reader(text).read(document)


def _syntax_problem(message: str, text: str) -> Problem:
    """Take the line out of tomllib's message: `... (at line 3, column 7)`, or `(at end of document)`."""
    what, _, place = message.rpartition(" (at ")
    number = re.match(r"line (\d+), column (\d+)", place)
    if number is None:
        return Problem(max(1, len(text.splitlines())), f"not TOML: {what or message}")
    return Problem(int(number[1]), f"not TOML: {what}, at column {number[2]}")


class _Reader:
    """Walks a document and keeps what is right of it, and what is not."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[tuple[str, ...], int] | None = None
        self._values: dict[str, Any] = {}
        self._problems: list[Problem] = []

    def read(self, document: Mapping[str, Any]) -> Contents:
        for name, value in document.items():
            if name == DEVICE_TABLE:
                self._read_devices(value)
            elif name == GROUP_TABLE:
                self._read_groups(value)
            elif name in BY_NAME:
                self._read_value((name,), BY_NAME[name], value)
            else:
                self._unknown(name, value)
        return Contents(self._values, tuple(sorted(self._problems)))

    def _read_devices(self, devices: object) -> None:
        if not isinstance(devices, dict):
            self._complain((DEVICE_TABLE,), f"{DEVICE_TABLE} is a table for each GPU: write [{DEVICE_TABLE}.0]")
            return
        for device, own in devices.items():
            path = (DEVICE_TABLE, device)
            if device in BY_NAME and not isinstance(own, dict):
                self._complain(path, f"for which GPU? write [{DEVICE_TABLE}.0], or its UUID, above {device}")
            elif not DEVICE_NAME.fullmatch(device):
                self._complain(path, f"'{device}' names no GPU: write its index, or its UUID (GPU-...)")
            elif not isinstance(own, dict):
                self._complain(path, f"{DEVICE_TABLE}.{device} is a table: write [{DEVICE_TABLE}.{device}]")
            else:
                self._read_device(path, own)

    def _read_device(self, path: tuple[str, ...], own: Mapping[str, Any]) -> None:
        for name, value in own.items():
            key = BY_NAME.get(name)
            if key is None:
                like = nearest(name, _PER_DEVICE)
                known = f"did you mean '{like}'?" if like else f"a GPU may have {', '.join(_PER_DEVICE)}"
                self._complain((*path, name), f"there is no key '{name}'; {known}")
            elif not key.per_device:
                self._complain(
                    (*path, name), f"'{name}' holds for all GPUs alike: write it above the first line with a ["
                )
            else:
                self._read_value((*path, name), key, value)

    def _read_groups(self, groups: object) -> None:
        if not isinstance(groups, dict):
            self._complain((GROUP_TABLE,), f"{GROUP_TABLE} has a table for each group: write [{GROUP_TABLE}.lab]")
            return
        for group, own in groups.items():
            path = (GROUP_TABLE, group)
            try:
                parse_group(group)
            except UsageError as error:
                self._complain(path, error.message)
                continue
            if not isinstance(own, dict):
                self._complain(path, f'{GROUP_TABLE}.{group} is a table: write [{GROUP_TABLE}."{group}"]')
                continue
            devices = own.get(DEVICE_TABLE, {})
            self._read_group(path, group, ALL_GPUS, {name: each for name, each in own.items() if name != DEVICE_TABLE})
            if not isinstance(devices, dict):
                self._complain((*path, DEVICE_TABLE), f'write [{GROUP_TABLE}."{group}".{DEVICE_TABLE}.0]')
                continue
            for device, its in devices.items():
                place = (*path, DEVICE_TABLE, device)
                if not DEVICE_NAME.fullmatch(device):
                    self._complain(place, f"'{device}' names no GPU: write its index, or its UUID (GPU-...)")
                elif not isinstance(its, dict):
                    self._complain(place, f'write [{GROUP_TABLE}."{group}".{DEVICE_TABLE}.{device}]')
                else:
                    self._read_group(place, group, device, its)

    def _read_group(self, path: tuple[str, ...], group: str, gpu: str, own: Mapping[str, Any]) -> None:
        for name, value in own.items():
            if name == GROUP_LIMIT:
                self._read_value((*path, name), GROUP_KEY, value, full_name(group, gpu))
            elif isinstance(value, dict) and gpu == ALL_GPUS:
                self._complain((*path, name), f'a group in a group is written [{GROUP_TABLE}."{group}/{name}"]')
            else:
                like = nearest(name, (GROUP_LIMIT,))
                known = f"did you mean '{like}'?" if like else f"a group has {GROUP_LIMIT}"
                self._complain((*path, name), f"there is no key '{name}'; {known}")

    def _read_value(self, path: tuple[str, ...], key: Key, value: object, name: str | None = None) -> None:
        try:
            self._values[name or ".".join(path)] = key.form.read(value)
        except UsageError as error:
            self._complain(path, f"{key.name}: {error.message}")

    def _unknown(self, name: str, value: object) -> None:
        like = nearest(name, (*BY_NAME, DEVICE_TABLE, GROUP_TABLE))
        if like:
            known = f"did you mean '{like}'?"
        elif isinstance(value, (dict, list)):
            known = f"the only tables are [{DEVICE_TABLE}.0], [{GROUP_TABLE}.lab] and so on"
        else:
            known = f"known: {', '.join(BY_NAME)}"
        self._complain((name,), f"there is no key '{name}'; {known}")

    def _complain(self, path: tuple[str, ...], text: str) -> None:
        if self._lines is None:
            self._lines = {}
            for place, line in _lines_of(self._text):
                self._lines.setdefault(place, line)
        self._problems.append(Problem(self._lines.get(path, 0), text))


def _lines_of(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Return where each key and table of a valid document begins; tomllib does not tell.

    Lines are gathered until they are TOML by themselves: that is one statement, whatever strings and lists it spans.
    """
    table: tuple[str, ...] = ()
    statement, began = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not statement:
            began = number
        statement += line + "\n"
        try:
            found = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        is_header = statement.lstrip().startswith("[")
        paths = tuple(_paths(found))
        if is_header:
            table = max(paths, key=len, default=())
        for path in paths:
            yield (path if is_header else (*table, *path)), began
        statement = ""


def _paths(table: object) -> Iterator[tuple[str, ...]]:
    """Return the path of every key in a table, those of tables in it included."""
    if isinstance(table, list) and table:
        table = table[-1]  # an array of tables: the one that this header begins
    if not isinstance(table, dict):
        return
    for name, value in table.items():
        yield (name,)
        for path in _paths(value):
            yield (name, *path)
