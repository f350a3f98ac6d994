# SPDX-License-Identifier: Apache-2.0
"""The endpoint: HTTP in threads of its own, which ask the daemon's loop for what it knows."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from convgpu.core.listen import Address
from convgpu.core.status import Snapshot
from convgpu.errors import EnvironmentMissingError
from convgpu.metrics.families import bounds, samples
from convgpu.metrics.table import METRICS, Metric
from convgpu.metrics.tally import Tally

_LOG: Final = logging.getLogger("convgpu.metrics")
_PATIENCE_S: Final = 8.0
"""Prometheus gives up after ten seconds where nothing else is configured."""
_KEPT_S: Final = 0.5
"""One look answers all who ask within this time: many scrapers, or a hostile one, cost no more than two a second."""


class Endpoint(Collector):
    """Serves the metrics while it is open.

    Args:
        address: Where to listen.
        snapshot: Measures afresh; a coroutine of the daemon's loop.
        tally: What was decided.
        loop: The daemon's loop.
    """

    def __init__(
        self,
        address: Address,
        snapshot: Callable[[], Awaitable[Snapshot]],
        tally: Tally,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._address = address
        self._snapshot = snapshot
        self._tally = tally
        self._loop = loop
        self._started_s = time.time()
        self._lock = threading.Lock()
        self._kept: list[Family] = []
        self._kept_until_s = 0.0
        self._server: WSGIServer | None = None

    def open(self) -> None:
        """Begin to listen.

        Raises:
            EnvironmentMissingError: The address is taken, or not this machine's.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, _ = start_http_server(self._address.port, self._address.host, registry)
        except OSError as error:
            raise EnvironmentMissingError(
                f"metrics cannot be served at {self._address}: {error.strerror or error}",
                next_step='choose another metrics_listen, or "" for none',
            ) from error
        _LOG.info("metrics at http://%s/metrics", self._address)
        if not self._address.loopback:
            _LOG.warning("metrics: everybody who reaches %s can read them, and names of containers", self._address)

    def close(self) -> None:
        """Stop listening; to be called outside the loop, which those who ask at the moment wait for."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def describe(self) -> Iterator[Family]:
        """Return nothing: what is registered is this collector alone, so no name can be there twice."""
        return iter(())

    def collect(self) -> Iterator[Family]:
        """Return what there is now, measured within the last half second."""
        with self._lock:
            if time.monotonic() >= self._kept_until_s:
                future = asyncio.run_coroutine_threadsafe(self._measure(), self._loop)
                try:
                    snapshot, tally = future.result(_PATIENCE_S)
                finally:
                    future.cancel()
                self._kept = families(snapshot, tally, self._started_s)  # here: the loop has decisions to make
                self._kept_until_s = time.monotonic() + _KEPT_S
            return iter(self._kept)

    async def _measure(self) -> tuple[Snapshot, Tally]:
        """Return what there is, both of one moment; to be awaited in the loop, which counts."""
        snapshot = await self._snapshot()
        return snapshot, self._tally.copy()


def families(snapshot: Snapshot, tally: Tally, started_s: float) -> list[Family]:
    """Return every metric with its samples, in the order of the table; one without samples is left out."""
    found: dict[str, Family] = {}
    for sample in samples(snapshot, tally, started_s):
        metric = sample.metric
        family = found.get(metric.name)
        if family is None:
            family = found[metric.name] = _family(metric)
        if isinstance(family, HistogramMetricFamily):
            counts = list(zip(bounds(), map(float, sample.buckets), strict=True))
            family.add_metric(sample.labels, counts, sample.value)
        elif isinstance(family, (CounterMetricFamily, GaugeMetricFamily)):
            family.add_metric(sample.labels, sample.value)
    return [found[name] for name in METRICS if name in found]


def _family(metric: Metric) -> Family:
    match metric.kind:
        case "counter":
            return CounterMetricFamily(metric.family, metric.meaning, labels=metric.labels)
        case "gauge":
            return GaugeMetricFamily(metric.family, metric.meaning, labels=metric.labels)
        case "histogram":
            return HistogramMetricFamily(metric.family, metric.meaning, labels=metric.labels)
