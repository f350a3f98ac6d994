# SPDX-License-Identifier: Apache-2.0
"""What the audit log has of findings: when each began and ended, with all figures, and what was done about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from convgpu.core.findings import Suspicion
from convgpu.core.identity import ContainerId, ProcessKey
from convgpu.core.watch import Cleared, FindingKey
from convgpu.daemon.journal import Journal
from convgpu.daemon.registry import Registry
from convgpu.sources import procfs
from convgpu.sources.docker import ContainerFacts

DONE: Final = "done"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


class FindingLog:
    """Writes the records of findings.

    Args:
        journal: Where they go.
        registry: Names of guarded containers and processes.

    Attributes:
        strangers: Containers that are looked at and not guarded.
    """

    def __init__(self, journal: Journal, registry: Registry) -> None:
        self._journal = journal
        self._registry = registry
        self.strangers: Mapping[ContainerId, ContainerFacts] = {}

    def raised(self, suspicion: Suspicion, action: str) -> None:
        """What looked wrong has lasted."""
        self._journal.write("finding.raised", action=action, reason=suspicion.reason, **self._finding(suspicion))

    def cleared(self, cleared: Cleared) -> None:
        """It is so no longer."""
        fields = self._finding(cleared.suspicion)
        self._journal.write("finding.cleared", lasted_ns=cleared.lasted_ns, reason=cleared.reason, **fields)

    def action(self, key: FindingKey, action: str, outcome: str, reason: str | None = None) -> None:
        """What was done about it: `done`, `failed` or `skipped`, and why."""
        fields: dict[str, Any] = {"finding": str(key.kind), "action": action, "outcome": outcome}
        if key.container is not None:
            fields["container"] = self.container(key.container)
        if reason is not None:
            fields["reason"] = reason
        self._journal.write("finding.action", gpu=self._journal.gpu(key.gpu), **fields)

    def container(self, container: ContainerId) -> dict[str, Any]:
        """Return the field that says which container, guarded or not."""
        facts = self.strangers.get(container)
        if facts is not None:
            return {"id": container, "name": facts.name, "image": facts.image}
        return self._journal.container(container)

    def _finding(self, suspicion: Suspicion) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "finding": str(suspicion.kind),
            "gpu": self._journal.gpu(suspicion.gpu),
            "processes": [self._process(key) for key in suspicion.processes],
            "used_bytes": suspicion.used_bytes,
            "witness_bytes": suspicion.witness_bytes,
            "nvml_bytes": suspicion.nvml_bytes,
        }
        if suspicion.container is not None:
            return fields | {"container": self.container(suspicion.container)}
        return fields | {
            "assigned_bytes": suspicion.assigned_bytes,
            "capacity_bytes": suspicion.capacity_bytes,
            "external_bytes": suspicion.external_bytes,
        }

    def _process(self, key: ProcessKey) -> dict[str, Any]:
        known = self._registry.processes.get(key)
        comm = known.comm if known is not None else procfs.command_name(key.pid)
        user_id = known.user_id if known is not None else procfs.user_id(key.pid)
        return {"pid": key.pid, "start_ticks": key.start_ticks, "comm": comm, "uid": user_id}
