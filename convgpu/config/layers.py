# SPDX-License-Identifier: Apache-2.0
"""What wins over what: the command line over the environment, that over the file, that over the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from convgpu.config.file import Problem, config_error, parse, read_text
from convgpu.config.forms import Scalar
from convgpu.config.keys import KEYS, DaemonConfig, find_key, written
from convgpu.errors import ConfigError
from convgpu.paths import DEFAULT_CONFIG_FILE

DEFAULT: Final = "default"
FILE: Final = "file"
ENVIRONMENT: Final = "environment"
COMMAND_LINE: Final = "command line"


@dataclass(frozen=True, slots=True)
class Given:
    """A value that stands above the file, and where it comes from."""

    value: Any
    source: str = COMMAND_LINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What is in force.

    Attributes:
        sources: Where each setting that is no default comes from, by full name.
        file: The file that was read; None: there was none.
    """

    config: DaemonConfig
    sources: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None

    def source(self, name: str) -> str:
        """Return where a setting comes from."""
        return self.sources.get(name, DEFAULT)


@dataclass(slots=True)
class InForce:
    """What the rooms of a daemon go by; a reload replaces what is in it."""

    effective: Effective

    @property
    def config(self) -> DaemonConfig:
        """The settings."""
        return self.effective.config


class Layers:
    """Reads the file, again and again, and lays what was given above it.

    Args:
        file: The configuration file; None: there is none to be read.
        required: It must be there. One that was there once must be there later too: that it is gone for a moment
            while an editor replaces it must not bring the defaults back.
        given: What stands above the file, by full name.
    """

    def __init__(
        self,
        file: Path | None = DEFAULT_CONFIG_FILE,
        *,
        required: bool = False,
        given: Mapping[str, Given] | None = None,
    ) -> None:
        self.file = file
        self._required = required
        self._given = given or {}

    @classmethod
    def of(cls, config: DaemonConfig) -> Layers:
        """Return layers without a file: what differs from the defaults was given."""
        defaults = DaemonConfig().values()
        return cls(
            None,
            given={name: Given(value) for name, value in config.values().items() if defaults.get(name) != value},
        )

    def read(self) -> Effective:
        """Read the file as it is now.

        Raises:
            ConfigError: It has a mistake, or is not there though it must be.
        """
        file, values = self._read_file()
        sources = dict.fromkeys(values, FILE)
        for name in [name for name in values if self._is_covered(name)]:
            del values[name], sources[name]
        for name, given in self._given.items():
            values[name] = given.value
            sources[name] = given.source
        config = DaemonConfig.of(values)
        contradictions = config.contradictions()
        if contradictions and file is not None:
            raise config_error(file, tuple(Problem(0, text) for text in contradictions))
        if contradictions:
            raise ConfigError("; ".join(contradictions))
        return Effective(config=config, sources=sources, file=file)

    def _read_file(self) -> tuple[Path | None, dict[str, Any]]:
        if self.file is None or not (self._required or self.file.exists()):
            return None, {}
        if self._required and not self.file.exists():
            raise ConfigError(
                f"there is no {self.file}", next_step="put it back; an empty file stands for the defaults"
            )
        contents = parse(read_text(self.file))
        if contents.problems:
            raise config_error(self.file, contents.problems)
        self._required = True
        return self.file, dict(contents.values)

    def _is_covered(self, name: str) -> bool:
        """Whether what was given for all GPUs stands above what the file says of one."""
        device, key = find_key(name)
        return device is not None and key.name in self._given


def merged(old: Effective, wanted: Effective) -> Effective:
    """Return what a reload can bring into force: what is wanted, but for what only a restart changes."""
    kept = {
        key: getattr(old.config, key.attribute)
        for key in KEYS
        if not key.live and getattr(old.config, key.attribute) != getattr(wanted.config, key.attribute)
    }
    sources = dict(wanted.sources) | {key.name: old.source(key.name) for key in kept}
    config = replace(wanted.config, **{key.attribute: value for key, value in kept.items()})
    return Effective(config=config, sources=sources, file=wanted.file)


def differences(old: DaemonConfig, new: DaemonConfig) -> list[tuple[str, Scalar | None, Scalar | None]]:
    """Return the settings that differ: full name, and both values as they are written; None: not set."""
    before, after = old.values(), new.values()
    return [
        (
            name,
            written(name, before[name]) if name in before else None,
            written(name, after[name]) if name in after else None,
        )
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
