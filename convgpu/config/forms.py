# SPDX-License-Identifier: Apache-2.0
"""How a setting is written: in a TOML file, on the command line, in what is shown. One form a kind of value."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from convgpu.core import algorithms
from convgpu.core.amount import Amount, parse_amount
from convgpu.core.durations import format_duration, parse_duration
from convgpu.core.listen import Address, parse_address
from convgpu.core.units import format_size, parse_size
from convgpu.errors import UsageError

Scalar = str | int | bool
"""What TOML and JSON write alike."""

AUTO: Final = "auto"
NO_LIMIT: Final = "none"
DENY: Final = "deny"
Auto = Literal["auto"]
NoLimit = Literal["none"]
Deny = Literal["deny"]

_WHOLE_NUMBER: Final = re.compile(r"\d{1,18}", re.ASCII)
_SHORTEST_INTERVAL_S: Final = 0.05
"""A round reads NVML and the kernel's maps: some milliseconds of work."""
_LONGEST_INTERVAL_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write a value.

    Attributes:
        name: For `--help`: what stands for the value.
        accepted: For a person: what may be written.
        read: Makes the value of what TOML gives, or of the command line's text; raises UsageError.
        write: Makes of the value what `read` reads.
    """

    name: str
    accepted: str
    read: Callable[[object], Any]
    write: Callable[[Any], Scalar] = str


def _text(value: object, accepted: str) -> str:
    if isinstance(value, str):
        return value
    raise UsageError(f"{shown(value)} is not a text in quotes: write {accepted}")


def shown(value: object) -> str:
    """Return a value as the file has it, for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    return "a table" if isinstance(value, dict) else str(value)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like another, or None where none is like it."""
    found = difflib.get_close_matches(word, tuple(known), n=1)
    return found[0] if found else None


def _read_amount(value: object) -> Amount:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Amount(value)
    return parse_amount(_text(value, '"512MiB", "5%" or whole bytes'))


def _read_capacity(value: object) -> Amount | Auto:
    if value == AUTO:
        return AUTO
    amount = _read_amount(value)
    if amount == Amount():
        raise UsageError(f"a capacity is at least 1 byte, not 0; to have it measured, write {AUTO}")
    return amount


def _read_default_limit(value: object) -> Amount | NoLimit | Deny:
    if value == NO_LIMIT:
        return NO_LIMIT
    if value == DENY:
        return DENY
    amount = _read_amount(value)
    if amount == Amount():
        raise UsageError(f"a limit is at least 1 byte, not 0; to let nothing through, write {DENY}")
    return amount


def _read_group_limit(value: object) -> Amount | NoLimit:
    if value == NO_LIMIT:
        return NO_LIMIT
    amount = _read_amount(value)
    if amount == Amount():
        raise UsageError(f"a group's limit is at least 1 byte, not 0; where it bounds nothing, write {NO_LIMIT}")
    return amount


def _read_default_guarantee(value: object) -> Amount | Auto:
    return AUTO if value == AUTO else _read_amount(value)


def _read_folder(value: object) -> Path:
    path = Path(_text(value, 'a path such as "/var/lib/convgpu"'))
    if not path.is_absolute():
        raise UsageError(f"'{path}' is not an absolute path: begin it with /")
    return path


def _read_file(value: object) -> Path | NoLimit:
    return NO_LIMIT if value == NO_LIMIT else _read_folder(value)


def _read_size(value: object) -> int | NoLimit:
    if value == NO_LIMIT:
        return NO_LIMIT
    return parse_size(str(value) if _is_number(value) else _text(value, f'"256MiB", whole bytes or "{NO_LIMIT}"'))


def _write_size(size: int | NoLimit) -> Scalar:
    if not isinstance(size, int):
        return size
    text = format_size(size)
    return size if "." in text else text  # two decimals may not be all of it


def _read_duration(value: object) -> int | NoLimit:
    text = str(value) if _is_number(value) else _text(value, f'"30s", "24h", seconds or "{NO_LIMIT}"')
    duration_ns = parse_duration(text)
    if duration_ns == 0:
        raise UsageError(f"{shown(value)} is no time at all: write a duration, or {NO_LIMIT}")
    return NO_LIMIT if duration_ns is None else duration_ns


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_program(value: object) -> str:
    name = _text(value, 'a program such as "runc"')
    if not name or name != name.strip() or "\n" in name or ("/" in name and not name.startswith("/")):
        raise UsageError(f"{shown(value)} is neither an absolute path nor a name on the PATH")
    return name


def _read_algorithm(value: object) -> str:
    name = _text(value, 'a name such as "fifo"')
    algorithms.load_algorithm(name)
    return name


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise UsageError(f"{shown(value)} is neither true nor false: write one of the two, without quotes")


def _read_whole_number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    raise UsageError(f"{shown(value)} is not a whole number from 0 on")


def _read_seconds(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        duration_ns = parse_duration(_text(value, 'seconds, or "500ms", "5s", "1m"'))
        if duration_ns is None:
            raise UsageError("there is always a next round: write a duration")
        seconds = duration_ns / 1e9
    if not _SHORTEST_INTERVAL_S <= seconds <= _LONGEST_INTERVAL_S:
        raise UsageError(f"{shown(value)} is out of range: at least 50ms, at most 1h")
    return seconds


def _read_command(value: object) -> tuple[str, ...]:
    text = _text(value, 'a command such as "/usr/local/bin/tell-me --quietly"')
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{shown(value)} is not a command: {error}") from error
    if words and not words[0].startswith("/"):
        raise UsageError(f"'{words[0]}' is not an absolute path: root runs it, so it must be one program for ever")
    return words


def _read_listen(value: object) -> Address | None:
    text = _text(value, 'an address and a port such as "127.0.0.1:9400"')
    return parse_address(text) if text else None


def one_of(*words: str) -> Form:
    """Return the form of a choice."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        like = nearest(value, words) if isinstance(value, str) else None
        hint = f"; did you mean '{like}'?" if like else ""
        raise UsageError(f"{shown(value)} is none of {', '.join(words)}{hint}")

    return Form("|".join(words), " or ".join(f'`"{word}"`' for word in words), read)


_AMOUNT_FORMS: Final = '`"512MiB"`, `"4G"`, whole bytes, or a share such as `"25%"`'

AMOUNT: Final = Form("size|percent", _AMOUNT_FORMS, _read_amount)
CAPACITY: Final = Form("size|percent|auto", f'{_AMOUNT_FORMS}, or `"{AUTO}"`', _read_capacity)
DEFAULT_LIMIT: Final = Form(
    "size|percent|none|deny", f'{_AMOUNT_FORMS}, `"{NO_LIMIT}"` or `"{DENY}"`', _read_default_limit
)
GROUP_LIMIT: Final = Form("size|percent|none", f'{_AMOUNT_FORMS}, or `"{NO_LIMIT}"`', _read_group_limit)
DEFAULT_GUARANTEE: Final = Form("size|percent|auto", f'{_AMOUNT_FORMS}, or `"{AUTO}"`', _read_default_guarantee)
FOLDER: Final = Form("directory", "an absolute path", _read_folder)
FILE: Final = Form("file|none", f'an absolute path, or `"{NO_LIMIT}"`', _read_file)
SIZE: Final = Form(
    "size|none",
    f'`"256MiB"`, `"4G"`, whole bytes, or `"{NO_LIMIT}"`',
    _read_size,
    _write_size,
)
DURATION: Final = Form(
    "duration|none",
    f'a duration such as `"30s"` or `"24h"`, or seconds, or `"{NO_LIMIT}"`',
    _read_duration,
    lambda duration: duration if duration == NO_LIMIT else format_duration(duration),
)
PROGRAM: Final = Form("program", "a path, or a name on the PATH", _read_program)
ALGORITHM: Final = Form(
    "name",
    ", ".join(f'`"{name}"`' for name in algorithms.OWN_ALGORITHMS) + ", or the name of one that a package adds",
    _read_algorithm,
)
COMMAND: Final = Form(
    "command",
    'an absolute path and arguments, in shell quotes where they need some; `""`: none',
    _read_command,
    shlex.join,
)
LISTEN: Final = Form(
    "address:port",
    'an IP address and a port such as `"127.0.0.1:9400"` or `"[::1]:9400"`; `""`: nowhere',
    _read_listen,
    lambda address: "" if address is None else str(address),
)
BOOLEAN: Final = Form("", "`true` or `false`", _read_boolean, bool)
WHOLE_NUMBER: Final = Form("n", "a whole number from 0 on", _read_whole_number, int)
SECONDS: Final = Form(
    "duration",
    'a duration such as `"500ms"` or `"5s"`, or seconds; 50ms to 1h',
    _read_seconds,
    lambda seconds: format_duration(round(seconds * 1e9)),
)
