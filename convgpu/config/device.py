# SPDX-License-Identifier: Apache-2.0
"""What can be set for single GPUs, as it holds for one of them."""

from __future__ import annotations

from dataclasses import dataclass

from convgpu.config.forms import Auto, Deny, NoLimit
from convgpu.core.amount import Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """What holds for one device; the fields are those of `DaemonConfig` that may be set for single GPUs."""

    reserve: Amount
    capacity: Amount | Auto
    default_limit: Amount | NoLimit | Deny
    default_guarantee: Amount | Auto
    safe: bool
