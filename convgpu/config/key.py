# SPDX-License-Identifier: Apache-2.0
"""What a key of the configuration is, and how a field of `DaemonConfig` carries one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from convgpu.config.forms import Form

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting.

    Attributes:
        name: In the file and in all that is shown; with dashes, the option of `convgpu daemon`.
        attribute: In `DaemonConfig`.
        form: How its value is written.
        default: Its value where nobody sets it.
        meaning: What it does; the first sentence says it, the others explain.
        live: A reload changes it in a running daemon.
        per_device: It may be set for single GPUs.
        opposite: The option that says no, of those that are yes or no.
    """

    name: str
    attribute: str
    form: Form
    default: Any
    meaning: str
    live: bool
    per_device: bool
    opposite: str | None

    @property
    def option(self) -> str:
        """The option of `convgpu daemon`."""
        return "--" + self.name.replace("_", "-")


def key_field(
    default: _T,
    form: Form,
    meaning: str,
    *,
    name: str | None = None,
    live: bool = False,
    per_device: bool = False,
    opposite: str | None = None,
) -> _T:
    """Make a field that carries its key."""
    facts = {"name": name, "form": form, "meaning": meaning, "live": live}
    return field(default=default, metadata={**facts, "per_device": per_device, "opposite": opposite})
