# SPDX-License-Identifier: Apache-2.0
"""Every command of the command line, with the words that call it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from convgpu.cli.main import main
from convgpu.cli.options import FormatOption


def all_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Return the commands in the order of the help, groups before what is in them."""
    yield from _below((), main)


def _below(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _below((*words, name), child)


def format_option(command: click.Command) -> FormatOption | None:
    """Return a command's `--format`, where it lists something."""
    return next((each for each in command.params if isinstance(each, FormatOption)), None)
