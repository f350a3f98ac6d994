# SPDX-License-Identifier: Apache-2.0
"""`convgpu completion`: what a shell needs to complete commands, options and container names."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from convgpu.cli.options import examples

_PROGRAM: Final = "convgpu"
_VARIABLE: Final = "_CONVGPU_COMPLETE"
"""How the shell asks this program, by click's convention."""
_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    short_help="Complete commands and names in a shell.",
    epilog=examples(
        "convgpu completion bash | sudo tee /etc/bash_completion.d/convgpu",
        "convgpu completion zsh > ~/.zfunc/_convgpu   # a folder of $fpath",
        "convgpu completion fish > ~/.config/fish/completions/convgpu.fish",
    ),
)
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
def command(shell: str) -> None:
    """Print what SHELL needs to complete commands, options, values and the names of containers.

    Names come from the daemon, so whoever may not ask it is offered none. bash has to be 4.4 or later.
    """
    from convgpu.cli.main import main

    script = _SHELLS[shell](main, {}, _PROGRAM, _VARIABLE)
    # Not `script.source()`: it looks for the version of the bash that is installed here, which is not what was asked.
    click.echo(script.source_template % script.source_vars(), nl=False)
