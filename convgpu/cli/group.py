# SPDX-License-Identifier: Apache-2.0
"""A click group that loads a verb when it is used, and says errors as ConvGPU does."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from convgpu.errors import ConvgpuError

INTERRUPTED_EXIT_CODE: Final = 130
"""128 + SIGINT, as a shell reports a program that Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb's command is (`module`, always named `command` there), and its line in the help."""

    module: str
    summary: str


class LazyGroup(click.Group):
    """A group whose help needs none of its verbs: `convgpu --help` loads click and nothing else."""

    def __init__(self, *args: Any, verbs: Mapping[str, Verb], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of their table, which is the order in which one meets them."""
        del ctx
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one verb."""
        del ctx
        verb = self._verbs.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = importlib.import_module(verb.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in self._verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; errors made on purpose become a line, what to do next, and their exit status."""
        try:
            return super().invoke(ctx)
        except ConvgpuError as error:
            click.echo(f"convgpu: {error.message}", err=True)
            if error.next_step:
                click.echo(f"next: {error.next_step}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED_EXIT_CODE)
