# SPDX-License-Identifier: Apache-2.0
"""How much of one device a container may hold, and how much of that is set aside for it."""

from __future__ import annotations

from dataclasses import dataclass

from convgpu.core.units import format_size
from convgpu.errors import UsageError


@dataclass(frozen=True, slots=True)
class Quota:
    """Limit and guarantee of one container on one device.

    Attributes:
        limit_bytes: The most the container may ever hold; greater than zero.
        guarantee_bytes: The part set aside from its start, 0 to `limit_bytes`.

    Raises:
        UsageError: The two do not go together.
    """

    limit_bytes: int
    guarantee_bytes: int

    def __post_init__(self) -> None:
        if self.limit_bytes <= 0:
            raise UsageError(f"a limit is at least 1 byte, not {self.limit_bytes}")
        if not 0 <= self.guarantee_bytes <= self.limit_bytes:
            raise UsageError(
                f"a guarantee of {format_size(self.guarantee_bytes)} does not go with a limit of "
                f"{format_size(self.limit_bytes)}: it is at least 0 and at most the limit"
            )
