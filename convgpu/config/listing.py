# SPDX-License-Identifier: Apache-2.0
"""Settings as others see them: for the API, and as a file that sets the same again."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from convgpu.config.forms import Scalar
from convgpu.config.groups import GROUP_LIMIT, GROUP_TABLE, split_name, table_of
from convgpu.config.keys import BY_NAME, DEVICE_TABLE, KEYS, DaemonConfig, find_key, written
from convgpu.config.layers import DEFAULT, Effective
from convgpu.core.status import SettingStatus

_WIDTH: Final = 100
_HEAD: Final = """\
# ConvGPU's settings: {file}. Every key is documented in docs/reference/configuration.md.
# A line that begins with #, directly followed by a key, states what holds by default.
# After a change: convgpu config check, then convgpu config reload (or SIGHUP to the daemon)."""
_DEVICE_HEAD: Final = f"""\
# For one GPU, by its UUID or its index: {", ".join(key.name for key in KEYS if key.per_device)}."""
_DEVICE_EXAMPLE: Final = f"""\
#[{DEVICE_TABLE}.0]
#reserve = "2GiB\""""


_GROUPS_HEAD: Final = """\
# The most that the containers of a group may hold together on each GPU; a group in another one is "lab/team"."""
_GROUPS_EXAMPLE: Final = f"""\
#[{GROUP_TABLE}.lab]
#{GROUP_LIMIT} = "20GiB\""""


def list_settings(effective: Effective, wanted: DaemonConfig | None = None) -> tuple[SettingStatus, ...]:
    """Return every setting as it is in force.

    Args:
        effective: What is in force.
        wanted: What would be in force after a restart.
    """
    values = effective.config.values()
    later = values if wanted is None else wanted.values()
    return tuple(
        SettingStatus(
            key=name,
            value=written(name, value),
            source=effective.source(name),
            live=find_key(name)[1].live,
            after_restart=written(name, later[name]) if later.get(name, value) != value else None,
        )
        for name, value in values.items()
    )


def toml_value(value: Scalar) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def to_toml(settings: Iterable[SettingStatus], file: Path | str) -> str:
    """Write settings as a file with the meaning of every key; defaults are there, but commented out."""
    of_all = []
    of_devices: dict[str, list[SettingStatus]] = {}
    of_groups: list[tuple[str, SettingStatus]] = []
    for setting in settings:
        group = split_name(setting.key)
        device, _ = find_key(setting.key)
        if group is not None:
            of_groups.append((table_of(*group), setting))
        elif device is not None:
            of_devices.setdefault(device, []).append(setting)
        else:
            of_all.append(setting)
    parts = [_HEAD.format(file=file)]
    for setting in of_all:
        key = BY_NAME[setting.key]
        lines = textwrap.wrap(key.meaning, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        value = toml_value(setting.value)
        lines.append(f"#{key.name} = {value}" if setting.source == DEFAULT else f"{key.name} = {value}")
        parts.append("\n".join(lines))
    parts.append(_DEVICE_HEAD)
    for device, own in of_devices.items():
        lines = [f"[{DEVICE_TABLE}.{device}]"]
        lines += [f"{setting.key.rpartition('.')[2]} = {toml_value(setting.value)}" for setting in own]
        parts.append("\n".join(lines))
    if not of_devices:
        parts[-1] += "\n" + _DEVICE_EXAMPLE
    parts.append(_GROUPS_HEAD)
    parts += [f"[{table}]\n{GROUP_LIMIT} = {toml_value(setting.value)}" for table, setting in of_groups]
    if not of_groups:
        parts[-1] += "\n" + _GROUPS_EXAMPLE
    return "\n\n".join(parts) + "\n"
