# SPDX-License-Identifier: Apache-2.0
"""Serves metrics while the daemon runs, where one is configured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from convgpu.config.keys import DaemonConfig
from convgpu.core.status import Snapshot
from convgpu.metrics.tally import Tally

if TYPE_CHECKING:
    from convgpu.metrics.endpoint import Endpoint


class Metering:
    """The endpoint, or none.

    Args:
        config: Says where.
        snapshot: Measures afresh.
        tally: What was decided.
    """

    def __init__(self, config: DaemonConfig, snapshot: Callable[[], Awaitable[Snapshot]], tally: Tally) -> None:
        self._config = config
        self._snapshot = snapshot
        self._tally = tally
        self._endpoint: Endpoint | None = None

    def open(self) -> None:
        """Begin to serve; to be called in the loop.

        Raises:
            EnvironmentMissingError: The address is taken, or not this machine's.
        """
        address = self._config.metrics_listen
        if address is None:
            return
        from convgpu.metrics.endpoint import Endpoint  # http and prometheus_client: not where nobody asked for it

        self._endpoint = Endpoint(address, self._snapshot, self._tally, asyncio.get_running_loop())
        self._endpoint.open()

    async def close(self) -> None:
        """Stop serving."""
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)
