# SPDX-License-Identifier: Apache-2.0
"""Docker's daemon.json: ConvGPU's runtime put in and taken out, all else left as it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from convgpu.errors import UsageError

RUNTIME: Final = "convgpu"
_RUNTIMES: Final = "runtimes"
_DEFAULT: Final = "default-runtime"
_BUILT_IN: Final = "runc"
"""The default runtime of a Docker that is told of none."""
_INDENT: Final = re.compile(r"^([ \t]+)\S", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What was put in, so that it can be taken out again.

    Attributes:
        default: ConvGPU was made the default runtime.
        default_before: The default runtime until then; None: none was named.
    """

    default: bool = False
    default_before: str | None = None


def parse(text: str | None) -> dict[str, Any]:
    """Read a daemon.json; None: there is none, which means the same as an empty one.

    Raises:
        UsageError: Docker would not read it either.
    """
    try:
        document = json.loads(text) if text and text.strip() else {}
    except json.JSONDecodeError as error:
        raise UsageError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get(_RUNTIMES, {}), dict):
        raise UsageError("it is not an object, or its runtimes are none")
    return document


def default_runtime(text: str | None) -> str | None:
    """Return the default runtime that is named, unless it is ConvGPU's own."""
    named = parse(text).get(_DEFAULT)
    return None if named in (None, RUNTIME) else str(named)


def runtime_program(text: str | None, name: str) -> str:
    """Return the program of a runtime that is named in the file; Docker knows `runc` by itself."""
    return str((parse(text).get(_RUNTIMES, {}).get(name) or {}).get("path") or name)


def with_runtime(text: str | None, program: str, *, default: bool) -> str:
    """Return the file with ConvGPU's runtime in it; one that is there already, in the same form, changes nothing.

    Raises:
        UsageError: The file is not understood, or another program has the name already.
    """
    document = parse(text)
    runtimes = document.setdefault(_RUNTIMES, {})
    there = runtimes.get(RUNTIME)
    if there is not None and there.get("path") != program:
        raise UsageError(f"it has a runtime '{RUNTIME}' already, which is {there.get('path')}")
    if there is not None and (not default or document.get(_DEFAULT) == RUNTIME):
        return text or ""
    runtimes.setdefault(RUNTIME, {"path": program})
    if default:
        document[_DEFAULT] = RUNTIME
    return _written(document, text)


def without_runtime(text: str, added: Added) -> str | None:
    """Return the file without what was put in; None where nothing is left of it.

    Raises:
        UsageError: The file is not understood.
    """
    document = parse(text)
    runtimes = document.get(_RUNTIMES, {})
    runtimes.pop(RUNTIME, None)
    if not runtimes:
        document.pop(_RUNTIMES, None)
    if added.default and document.get(_DEFAULT) == RUNTIME:
        del document[_DEFAULT]
        if added.default_before is not None:
            document[_DEFAULT] = added.default_before
    return _written(document, text) if document else None


def forgetting(text: str | None) -> str:
    """Return the file with what a running Docker must be told to forget ConvGPU's runtime.

    When it reads its settings again it keeps what they no longer name; so they have to name, for that moment, the
    runtimes that are left and the default that there would be without a word.

    Raises:
        UsageError: The file is not understood.
    """
    document = parse(text)
    document.setdefault(_RUNTIMES, {})
    document.setdefault(_DEFAULT, _BUILT_IN)
    return _written(document, text)


def _written(document: dict[str, Any], like: str | None) -> str:
    """Write JSON with the indentation of what was there."""
    indent = _INDENT.search(like or "")
    return json.dumps(document, indent=indent.group(1) if indent else 4, ensure_ascii=False) + "\n"
