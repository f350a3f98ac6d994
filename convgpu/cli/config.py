# SPDX-License-Identifier: Apache-2.0
"""`convgpu config`: check the configuration file, show what is in force, read the file again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from convgpu.api import Client, ConfigStatus, SettingChange
from convgpu.cli.listing import Listing
from convgpu.cli.options import examples, format_option, run_dir_option
from convgpu.cli.output import TABLE, echo_records, echo_table
from convgpu.config.file import Problem, parse, read_text
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import Effective, Layers
from convgpu.config.listing import list_settings, to_toml
from convgpu.errors import DaemonUnavailableError, UsageError
from convgpu.paths import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE, RunPaths

_FILE = click.Path(path_type=Path, dir_okay=False)
_LISTING = Listing(ConfigStatus, parts="settings", single=True)
_TOML = "toml"


@click.group(epilog=examples("convgpu config check", "convgpu config show", "convgpu config reload"))
def command() -> None:
    """Check the configuration file, show the settings in force, let the daemon read the file again."""


@command.command(epilog=examples("convgpu config check", "convgpu config check ./config.toml && sudo mv ..."))
@click.argument("file", type=_FILE, required=False)
@click.pass_context
def check(ctx: click.Context, /, file: Path | None) -> None:
    """Say everything that is wrong with FILE, a line each (default: the daemon's file). No daemon is needed.

    The exit status is 2 if anything is. Whether the machine has the GPUs that it names, only the daemon can tell.
    """
    path = file or _default_file()
    if file is None and not path.exists():
        click.echo(f"There is no {path}: the defaults hold.")
        return
    contents = parse(read_text(path))
    problems = contents.problems
    if not problems:
        problems = tuple(Problem(0, text) for text in DaemonConfig.of(contents.values).contradictions())
    for problem in problems:
        click.echo(problem.at(path), err=True)
    if problems:
        click.echo(f"{path}: {_count(len(problems), 'problem')}", err=True)
        ctx.exit(UsageError.exit_code)
    click.echo(f"{path}: {_count(len(contents.values), 'setting')}, all well")


@command.command(
    epilog=examples(
        "convgpu config show",
        "convgpu config show --format json | jq '.settings[] | select(.source != \"default\")'",
        "convgpu config show --defaults --format toml | sudo tee /etc/convgpu/config.toml",
    )
)
@format_option(_LISTING, more=(_TOML,))
@click.option("--config", "file", type=_FILE, help="Show what a daemon would take from this file; ask none.")
@click.option("--defaults", is_flag=True, help="Show what holds where nothing is set.")
@run_dir_option
def show(output_format: str, file: Path | None, defaults: bool, run_dir: RunPaths) -> None:
    """Show every setting and where it comes from: default, file, environment or command line of the daemon.

    Where no daemon answers, what one would take from the file. --format toml writes a configuration file.
    """
    if defaults and file is not None:
        raise click.UsageError("--defaults and --config exclude each other")
    status = _status(file, run_dir, defaults=defaults)
    if output_format == TABLE:
        _echo_settings(status)
    elif output_format == _TOML:
        click.echo(to_toml(status.settings, status.file or DEFAULT_CONFIG_FILE), nl=False)
    else:
        echo_records(_LISTING, [status], output_format)


@command.command(epilog=examples("sudo convgpu config reload"))
@run_dir_option
def reload(run_dir: RunPaths) -> None:
    """Let the daemon read its configuration file again, as SIGHUP does, and say what changed.

    A file with mistakes changes nothing. What only a restart can change is named. The daemon's own command line goes
    on to win over the file.
    """
    with Client(run_dir.control_socket) as client:
        change = client.config_reload()
    for each in change.changed:
        click.echo(_change_line(each))
    for each in change.needs_restart:
        click.echo(f"{_change_line(each)}: needs a restart of the daemon")
    if not change.changed and not change.needs_restart:
        click.echo("Nothing has changed." if change.file else "There is no configuration file.")


def _default_file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG_FILE)


def _status(file: Path | None, run_dir: RunPaths, *, defaults: bool) -> ConfigStatus:
    if defaults:
        return _status_of(Effective(config=DaemonConfig()))
    if file is not None:
        return _status_of(Layers(file.absolute(), required=True).read())
    try:
        with Client(run_dir.control_socket) as client:
            return client.config_show()
    except DaemonUnavailableError as error:
        click.echo(f"convgpu: {error.message}: this is what one would take from its file", err=True)
    return _status_of(Layers(_default_file(), required=CONFIG_VARIABLE in os.environ).read())


def _status_of(effective: Effective) -> ConfigStatus:
    file = None if effective.file is None else str(effective.file)
    return ConfigStatus(file=file, settings=list_settings(effective))


def _echo_settings(status: ConfigStatus) -> None:
    click.echo(f"Configuration file: {status.file or 'none'}", err=True)
    rows = []
    for setting in status.settings:
        later = setting.after_restart
        note = "" if later is None else f"{_text(later)} after a restart"
        rows.append((setting.key, _text(setting.value), setting.source, note))
    echo_table(("KEY", "VALUE", "SOURCE", ""), rows)


def _change_line(change: SettingChange) -> str:
    return f"{change.key}: {_text(change.old)} -> {_text(change.new)}"


def _text(value: str | int | bool | None) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
