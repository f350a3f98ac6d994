# SPDX-License-Identifier: Apache-2.0
"""The account of one container on each of its devices: what it may hold, and what it has."""

from __future__ import annotations

from typing import Final

from convgpu.core.status import DeviceUsage
from convgpu.tui import figures
from convgpu.tui.columns import Column

_SIZE: Final = figures.SIZE_WIDTH
_GPU = Column[DeviceUsage]("GPU", 3, lambda device: str(device.index), right=True)
_LIMIT = Column[DeviceUsage]("LIMIT", _SIZE, lambda device: figures.size(device.limit_bytes), right=True)
_GUARANTEE = Column[DeviceUsage]("GUARANTEE", 9, lambda device: figures.size(device.guarantee_bytes), right=True)
_ASSIGNED = Column[DeviceUsage]("ASSIGNED", 8, lambda device: figures.size(device.assigned_bytes), right=True)
_HELD = Column[DeviceUsage]("HELD", _SIZE, lambda device: figures.size(device.used_bytes), right=True)
_MANAGED = Column[DeviceUsage]("MANAGED", _SIZE, lambda device: figures.size(device.managed_bytes), right=True)
_PEAK = Column[DeviceUsage]("PEAK", _SIZE, lambda device: figures.size(device.peak_bytes), right=True)
_ASKED = Column[DeviceUsage]("ASKED", _SIZE, lambda device: figures.size(device.requested_bytes), right=True)
_WAIT = Column[DeviceUsage]("WAIT", 4, lambda device: str(device.waiting), right=True)
_SUSPENDED = Column[DeviceUsage]("SUSPENDED", 9, lambda device: figures.duration(device.suspended_ms), right=True)
_DENIED = Column[DeviceUsage]("DENIED", 6, lambda device: str(device.denied), right=True)

SHOWN: Final = (
    _GPU, _LIMIT, _GUARANTEE, _ASSIGNED, _HELD, _MANAGED, _PEAK, _ASKED, _WAIT, _SUSPENDED, _DENIED,
)  # fmt: skip
IMPORTANCE: Final = (
    _GPU, _HELD, _LIMIT, _PEAK, _ASSIGNED, _GUARANTEE, _MANAGED, _WAIT, _DENIED, _SUSPENDED, _ASKED,
)  # fmt: skip
