# SPDX-License-Identifier: Apache-2.0
"""Values and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from convgpu.core.durations import parse_duration
from convgpu.core.units import parse_size
from convgpu.errors import UsageError
from convgpu.oci.labels import parse_guarantee, parse_priority
from convgpu.oci.run import Wait
from convgpu.paths import DEFAULT_CONFIG_FILE, DEFAULT_RUN_DIR, RunPaths, configured_run_dir

_F = TypeVar("_F", bound=Callable[..., Any])
if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic before click 8.4


class ParsedType(_ParamType):
    """A value read by one of the core's parsers; its UsageError becomes click's, with exit status 2."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a text; a value that was read before passes."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


SIZE: Final = ParsedType("size", parse_size)
GUARANTEE: Final = ParsedType("size", parse_guarantee)
PRIORITY: Final = ParsedType("n", parse_priority)
WAIT: Final = ParsedType("duration", lambda text: Wait(parse_duration(text)))


def examples(*commands: str) -> str:
    """Return an epilog that click does not wrap: one command a line."""
    return "\b\n" + ("Example:" if len(commands) == 1 else "Examples:") + "".join(f"\n  {line}" for line in commands)


def run_dir_option(function: _F) -> _F:
    """Add `--run-dir`, which tells where the daemon's control socket is."""
    return click.option(
        "--run-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=configured_run_dir,
        envvar="CONVGPU_RUN_DIR",
        show_default=f"{DEFAULT_RUN_DIR}, or what {DEFAULT_CONFIG_FILE} says",
        show_envvar=True,
        callback=lambda _ctx, _param, value: RunPaths(value),
        help="The daemon's run folder.",
    )(function)


def format_option(function: _F) -> _F:
    """Add `--format table|json`."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Output for a person or for a program.",
    )(function)
