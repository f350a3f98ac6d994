# SPDX-License-Identifier: Apache-2.0
"""Values and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from convgpu.cli.container_name import ContainerName
from convgpu.cli.listing import Listing
from convgpu.cli.output import FORMATS, TABLE
from convgpu.core.durations import parse_duration
from convgpu.core.groups import parse_group
from convgpu.core.units import parse_size
from convgpu.errors import UsageError
from convgpu.oci.labels import parse_guarantee, parse_priority
from convgpu.oci.run import Wait
from convgpu.paths import DEFAULT_CONFIG_FILE, DEFAULT_RUN_DIR, RunPaths, configured_run_dir

_F = TypeVar("_F", bound=Callable[..., Any])


class ParsedType(click.ParamType[Any]):
    """A value read by one of the core's parsers; its UsageError becomes click's, with exit status 2.

    Args:
        name: What stands for the value in the help.
        parse: Reads it.
        known: Values that a shell can offer.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], known: Callable[[], Iterable[str]] = tuple) -> None:
        self.name = name
        self._parse = parse
        self._known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the known values that begin like this."""
        del ctx, param
        return [CompletionItem(word) for word in self._known() if word.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a text; a value that was read before passes."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


CONTAINER: Final = ContainerName()
SIZE: Final = ParsedType("size", parse_size)
GUARANTEE: Final = ParsedType("size", parse_guarantee)
PRIORITY: Final = ParsedType("n", parse_priority)
SIZE_OR_NONE: Final = ParsedType("size|none", lambda text: (None if text == "none" else parse_size(text),))
GROUP: Final = ParsedType("group", parse_group)
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


class FormatOption(click.Option):
    """`--format`; it knows what its command lists, so that the documentation can tell.

    Attributes:
        listings: What is listed; the first is the usual one.
    """

    listings: tuple[Listing, ...] = ()


def format_option(*listings: Listing, more: Sequence[str] = ()) -> Callable[[_F], _F]:
    """Add `--format table|json|jsonl|csv`.

    Args:
        listings: What the command lists; several where another option changes it.
        more: Further formats, which this command alone has.
    """

    def add(function: _F) -> _F:
        option = type("FormatOption", (FormatOption,), {"listings": listings})
        return click.option(
            "--format",
            "output_format",
            cls=option,
            type=click.Choice([*FORMATS, *more]),
            default=TABLE,
            show_default=True,
            help="Output for a person or for a program.",
        )(function)

    return add
