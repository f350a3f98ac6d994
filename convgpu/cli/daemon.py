# SPDX-License-Identifier: Apache-2.0
"""`convgpu daemon`: run the service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from convgpu.cli.options import ParsedType, examples
from convgpu.config import forms
from convgpu.config.file import DEVICE_NAME
from convgpu.config.key import Key
from convgpu.config.keys import DEVICE_TABLE, KEYS
from convgpu.config.layers import COMMAND_LINE, ENVIRONMENT, Given, Layers
from convgpu.errors import UsageError
from convgpu.paths import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE

_F = TypeVar("_F", bound=Callable[..., Any])


def _of_gpu(form: forms.Form) -> Callable[[str], tuple[str, Any]]:
    def read(text: str) -> tuple[str, Any]:
        device, has_device, value = text.rpartition("=")
        if has_device and not DEVICE_NAME.fullmatch(device):
            raise UsageError(f"'{text}' names no GPU: write GPU=VALUE, such as 0=10GiB, or VALUE for all")
        return device, form.read(value)

    return read


def _option(key: Key) -> Callable[[_F], _F]:
    """Return the option of a key: its meaning, form and default are those of the file."""
    default = str(key.form.write(key.default))
    summary = key.meaning.partition(". ")[0].rstrip(".") + "."
    if key.form is forms.FOLDER:
        return click.option(
            key.option,
            type=click.Path(path_type=Path, file_okay=False),
            callback=lambda _ctx, _param, path: None if path is None else path.absolute(),
            envvar=f"CONVGPU_{key.name.upper()}",
            show_envvar=True,
            show_default=default,
            help=summary,
        )
    if key.opposite is not None:
        default = key.name if key.default else key.opposite
        return click.option(f"{key.option}/--{key.opposite}", default=None, show_default=default, help=summary)
    if key.per_device:
        kind = ParsedType(f"[gpu=]{key.form.name}", _of_gpu(key.form))
        return click.option(key.option, type=kind, multiple=True, show_default=default, help=summary)
    return click.option(key.option, type=ParsedType(key.form.name, key.form.read), show_default=default, help=summary)


def _all_options(function: _F) -> _F:
    for key in reversed(KEYS):
        function = _option(key)(function)
    return function


@click.command(
    epilog=examples(
        "sudo convgpu daemon",
        "sudo convgpu daemon --reserve 1GiB --reserve 0=4GiB --default-limit 25%",
        "sudo convgpu daemon --config ./config.toml",
    )
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=CONFIG_VARIABLE,
    show_envvar=True,
    show_default=f"{DEFAULT_CONFIG_FILE}, where there is one",
    help="The configuration file.",
)
@_all_options
@click.pass_context
def command(ctx: click.Context, /, config_file: Path | None, **options: Any) -> None:
    """Run the service in the foreground until SIGTERM or Ctrl-C. It needs root.

    Every key of the configuration file is an option too, and an option wins over the file. Where it says [gpu=], the
    option may be given once for all GPUs and once for each, by index or UUID. SIGHUP reads the file again.

    Killed and started again, it goes on where it was: what every process holds is in its page.
    """
    from convgpu.daemon.service import run  # the whole service: not for `--help`

    file = DEFAULT_CONFIG_FILE if config_file is None else config_file.absolute()
    ctx.exit(run(Layers(file, required=config_file is not None, given=_given(ctx, options))))


def _given(ctx: click.Context, options: dict[str, Any]) -> dict[str, Given]:
    """Return what the command line and the environment say, by the settings' full names."""
    given = {}
    for key in KEYS:
        parameter = key.option.removeprefix("--").replace("-", "_")
        value = options[parameter]
        source = ENVIRONMENT if ctx.get_parameter_source(parameter) is ParameterSource.ENVIRONMENT else COMMAND_LINE
        if value is None:
            continue
        if not (key.per_device and isinstance(value, tuple)):
            given[key.name] = Given(value, source)
            continue
        for device, own in value:
            given[f"{DEVICE_TABLE}.{device}.{key.name}" if device else key.name] = Given(own, source)
    return given
