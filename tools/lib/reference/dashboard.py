# SPDX-License-Identifier: Apache-2.0
"""docs/monitoring/grafana-dashboard.json: the dashboard, described here in a table of panels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS: Final = 24
_SCHEMA: Final = 39
"""Of Grafana's dashboards, version 10 on; later ones migrate it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        queries: What to draw, each with its legend.
        unit: Grafana's word.
        kind: Grafana's word.
        width: In columns of 24.
        at_least: Where the axis begins.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    at_least: float | None = 0


_C: Final = '{container=~"$container", gpu_uuid=~"$gpu"}'
_G: Final = '{gpu_uuid=~"$gpu"}'
_WAITS_BY_BUCKET: Final = "sum by (le) (rate(convgpu_request_suspended_seconds_bucket[$__rate_interval]))"
PANELS: Final = (
    Panel("Containers", (("count(convgpu_container_info)", ""),), "none", "stat", 4, 4),
    Panel("Waiting now", ((f"sum(convgpu_requests_waiting{_G})", ""),), "none", "stat", 4, 4),
    Panel("Findings", ((f"sum(convgpu_findings{_G})", ""),), "none", "stat", 4, 4),
    Panel("Witness", (("min(convgpu_witness_up)", ""),), "bool_on_off", "stat", 4, 4),
    Panel(
        "Events lost in an hour", (("sum(increase(convgpu_witness_lost_events_total[1h]))", ""),), "none", "stat", 4, 4
    ),
    Panel("Records in the log", (("convgpu_audit_records_total", ""),), "none", "stat", 4, 4),
    Panel(
        "Memory of the GPUs",
        (
            (f"convgpu_gpu_memory_used_bytes{_G}", "used {{gpu_uuid}}"),
            (f"convgpu_gpu_memory_assigned_bytes{_G}", "assigned {{gpu_uuid}}"),
            (f"convgpu_gpu_memory_external_bytes{_G}", "outside {{gpu_uuid}}"),
            (f"convgpu_gpu_memory_capacity_bytes{_G}", "capacity {{gpu_uuid}}"),
        ),
        "bytes",
    ),
    Panel(
        "Containers: used, as a part of the limit",
        ((f"convgpu_container_memory_used_bytes{_C} / convgpu_container_memory_limit_bytes{_C}", "{{container}}"),),
        "percentunit",
    ),
    Panel("Containers: used", ((f"convgpu_container_memory_used_bytes{_C}", "{{container}}"),), "bytes"),
    Panel("Containers: assigned", ((f"convgpu_container_memory_assigned_bytes{_C}", "{{container}}"),), "bytes"),
    Panel("Who waits", ((f"sum by (kind) (convgpu_requests_waiting{_G})", "{{kind}}"),), "none"),
    Panel(
        "Share of the time that a container's allocations waited",
        ((f"rate(convgpu_container_suspended_seconds_total{_C}[$__rate_interval])", "{{container}}"),),
        "percentunit",
    ),
    Panel(
        "Decisions a second",
        (("sum by (outcome) (rate(convgpu_decisions_total[$__rate_interval]))", "{{outcome}}"),),
        "ops",
    ),
    Panel(
        "How long requests wait that have to",
        tuple(
            (
                f"histogram_quantile({part}, {_WAITS_BY_BUCKET})",
                legend,
            )
            for part, legend in ((0.5, "median"), (0.95, "95 %"))
        ),
        "s",
    ),
    Panel(
        "Ledger minus witness",
        (
            (
                f"convgpu_container_memory_used_bytes{_C} - convgpu_container_memory_witness_bytes{_C}",
                "{{container}}",
            ),
        ),
        "bytes",
        at_least=None,
    ),
    Panel("Findings", ((f"sum by (kind) (convgpu_findings{_G})", "{{kind}}"),), "none"),
    Panel(
        "Groups: assigned, as a part of the limit",
        ((f"convgpu_group_memory_assigned_bytes{_G} / convgpu_group_memory_limit_bytes{_G}", "{{group}}"),),
        "percentunit",
        width=24,
    ),
    Panel("Utilisation", ((f"convgpu_gpu_utilization_ratio{_G}", "{{gpu_uuid}}"),), "percentunit"),
    Panel("Temperature", ((f"convgpu_gpu_temperature_celsius{_G}", "{{gpu_uuid}}"),), "celsius"),
)


def text() -> str:
    """Return the file."""
    return json.dumps(_dashboard(), indent=1) + "\n"


def _dashboard() -> dict[str, Any]:
    return {
        "title": "ConvGPU",
        "uid": "convgpu",
        "tags": ["convgpu", "gpu"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                _variable("gpu", "GPU", "label_values(convgpu_gpu_info, gpu_uuid)"),
                _variable("container", "Container", "label_values(convgpu_container_info, container)"),
            ]
        },
        "panels": _placed(),
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _placed() -> list[dict[str, Any]]:
    """Set the panels side by side, and below each other where a line is full."""
    panels = []
    x = y = below = 0
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, below
        position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        panels.append(_panel(number, panel, position))
        x += panel.width
        below = max(below, y + panel.height)
    return panels


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto"}
        for place, (query, legend) in enumerate(panel.queries)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.at_least is not None:
        defaults["min"] = panel.at_least
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }
