# SPDX-License-Identifier: Apache-2.0
"""A click group that loads a verb when it is used, and says errors as ConvGPU does."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import click

from convgpu.errors import INTERRUPTED_EXIT_CODE, ConvgpuError

UNEXPECTED_NEXT_STEP: Final = (
    "please report this, with what `sudo convgpu doctor --bundle convgpu-bundle.tar.gz` writes"
)


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; one that does not exist is answered with those most like it."""
        name = args[0]
        if name not in self._verbs and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(name, possibilities=self._verbs, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in self._verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; errors made on purpose become a line, what to do next, and their exit status.

        A file that is not there is the person's to mend. Others keep their traceback, which a report needs, and say
        what to do with it.
        """
        try:
            return super().invoke(ctx)
        except ConvgpuError as error:
            click.echo(f"convgpu: {error.message}", err=True)
            click.echo(f"next: {error.advice}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED_EXIT_CODE)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:
            if error.filename is None:
                self._say_fault(ctx)
            click.echo(f"convgpu: {error.filename}: {error.strerror}", err=True)
            click.echo("next: see that the path is right, and that this user may use it", err=True)
            ctx.exit(ConvgpuError.exit_code)
        except Exception:  # noqa: BLE001 -- the last place that can say what to do next
            self._say_fault(ctx)

    @staticmethod
    def _say_fault(ctx: click.Context) -> NoReturn:
        import traceback  # not for a command that goes well

        click.echo(traceback.format_exc(), err=True, nl=False)
        click.echo("convgpu: this is a fault of ConvGPU", err=True)
        click.echo(f"next: {UNEXPECTED_NEXT_STEP}", err=True)
        ctx.exit(ConvgpuError.exit_code)
