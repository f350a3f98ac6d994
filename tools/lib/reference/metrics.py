# SPDX-License-Identifier: Apache-2.0
"""docs/reference/metrics.md: every metric, from the table that the endpoint serves."""

from __future__ import annotations

from convgpu.metrics.table import CONTAINER, METRICS, SUSPENDED_BUCKETS_S

_HEAD = """\
# Metrics

Made from the table of metrics (`convgpu/metrics/table.py`) by `tools/reference.py`; change that, not this page.

Off unless configured:

```toml
# /etc/convgpu/config.toml; the daemon has to be started again
metrics_listen = "127.0.0.1:9400"
```

```yaml
# prometheus.yml
rule_files: [convgpu-alerts.yml]
scrape_configs:
  - job_name: convgpu
    static_configs:
      - targets: ["127.0.0.1:9400"]
```

Whoever can connect reads everything, names of containers and images too: there is no password and no encryption. So an
address that other machines reach is refused unless `metrics_remote = true` is set as well, and the daemon warns then.
Best leave it on loopback, with a Prometheus agent or a proxy that asks for a password in front of it.

Each scrape measures afresh, once for all who ask within half a second. What is gone has no series any more, and what is
not known has no sample: it is never 0. There are {per_container} series for each container and GPU, and a
few dozen for each GPU and the daemon. A container is called by its name; where two have the same for a moment, by name
and id. The counters of decisions begin with the daemon, those of a container with the container.

[alerts.yml](../monitoring/alerts.yml) has rules for Prometheus,
[grafana-dashboard.json](../monitoring/grafana-dashboard.json) a dashboard for Grafana (import it and choose the data
source).

## Table

| metric | kind | labels | meaning |
|---|---|---|---|
"""
_OTEL_HEAD = """
The buckets of `convgpu_request_suspended_seconds` end at {buckets} seconds.

## OpenTelemetry

Where OpenTelemetry's semantic conventions (hardware and container, still "development") have a name for the same thing,
it is this one. `gpu_uuid` is `hw.id` with `hw.type` = `gpu`, `container` is `container.name`. Values and units are the
same: By, 1, Cel. A collector that scrapes the endpoint renames with these.

| metric | OpenTelemetry |
|---|---|
"""


def page() -> str:
    """Return the page."""
    per_container = sum(metric.labels == CONTAINER for metric in METRICS.values())
    head = _HEAD.format(per_container=per_container)
    rows = [
        f"| `{metric.series}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.meaning} |\n"
        for metric in METRICS.values()
    ]
    buckets = ", ".join(f"{bound:g}" for bound in SUSPENDED_BUCKETS_S)
    names = [f"| `{metric.series}` | `{metric.otel}` |\n" for metric in METRICS.values() if metric.otel]
    return head + "".join(rows) + _OTEL_HEAD.format(buckets=buckets) + "".join(names)
