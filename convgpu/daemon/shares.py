# SPDX-License-Identifier: Apache-2.0
"""Which share of its devices a container gets, and in which group: by command, label or default, and from before."""

from __future__ import annotations

from convgpu.config.layers import InForce
from convgpu.core.engine import Engine
from convgpu.core.identity import ContainerId, GroupName
from convgpu.core.quota import Quota
from convgpu.daemon.groups import Groups
from convgpu.daemon.quotas import Share, same_on_all, share_of, with_limit, within
from convgpu.daemon.state import ContainerState, StateFile
from convgpu.errors import QuotaRefusedError
from convgpu.oci.labels import LABEL_COMPOSE_PROJECT, LABEL_GROUP, LabelSettings, group_of
from convgpu.sources.docker import ContainerFacts
from convgpu.sources.nvml import Gpu


class Shares:
    """Decides what containers begin with."""

    def __init__(self, in_force: InForce, engine: Engine, state: StateFile, groups: Groups) -> None:
        self._in_force = in_force
        self._engine = engine
        self._state = state
        self._groups = groups

    def note_default(self, saved: ContainerState, share: Share) -> None:
        """Keep what a container was given because it named no limit: a restarted daemon gives it the same."""
        if share.source == "default":
            saved.default_limit_bytes = {uuid: quota.limit_bytes for uuid, quota in share.quotas.items()}
            saved.default_guarantee_bytes = {uuid: quota.guarantee_bytes for uuid, quota in share.quotas.items()}
            saved.default_guarantee_fixed = share.guarantee_fixed
            self._state.save()

    def group_of(self, facts: ContainerFacts, saved: ContainerState, *, restored: bool) -> GroupName | None:
        """Return a container's group; one that runs since before is in that in which it began.

        Raises:
            QuotaRefusedError: The group has no limit, and must have one.
            UsageError: A label has a bad value; the message names it.
        """
        if LABEL_GROUP not in facts.labels and saved.group is not None:
            return GroupName(saved.group) if saved.group else None
        group = group_of(facts.labels, by_compose_project=self._in_force.config.group_by_compose_project)
        if not restored:
            self._groups.check_start(group, None)
        if LABEL_GROUP not in facts.labels and LABEL_COMPOSE_PROJECT in facts.labels:
            saved.group = group or ""
            self._state.save()
        return group

    def forget_group(self, container: ContainerId) -> None:
        """A container ended: when it starts again, its group is decided again."""
        saved = self._state.state.containers.get(container)
        if saved is not None and saved.group is not None:
            saved.group = None
            self._state.save()

    def of(
        self,
        labels: LabelSettings,
        gpus: tuple[Gpu, ...],
        saved: ContainerState,
        *,
        restored: bool,
        group: GroupName | None,
    ) -> Share:
        """Return what a container is to get: by command, else by label, else by default."""
        limit_bytes = saved.limit_bytes
        try:
            own = self.own(labels, gpus, saved, restored=restored, group=group)
        except QuotaRefusedError:
            if limit_bytes is None:
                raise
            own = same_on_all(gpus, limit_bytes, None, "command")
        if limit_bytes is None:
            return own
        if saved.guarantee_bytes is not None:
            return same_on_all(gpus, limit_bytes, min(saved.guarantee_bytes, limit_bytes), "command")
        return Share(with_limit(own.quotas, limit_bytes, own.guarantee_fixed), "command", own.guarantee_fixed)

    def own(
        self,
        labels: LabelSettings,
        gpus: tuple[Gpu, ...],
        saved: ContainerState,
        *,
        restored: bool,
        group: GroupName | None,
    ) -> Share:
        """Return what a container's label says, or the default; of one that runs since before, the default of then."""
        limits, guarantees = saved.default_limit_bytes, saved.default_guarantee_bytes
        if restored and labels.limit_bytes is None and limits.keys() == {gpu.uuid for gpu in gpus}:
            quotas = {gpu.uuid: Quota(limits[gpu.uuid], guarantees[gpu.uuid]) for gpu in gpus}
            return Share(quotas, "default", saved.default_guarantee_fixed)
        capacities = {gpu.uuid: self._engine.capacity(gpu.uuid) for gpu in gpus}
        share = share_of(labels, gpus, self._in_force.config, capacities)
        if share.source != "default":
            return share
        return within(share, {gpu.uuid: self._groups.most_bytes(group, gpu.uuid) for gpu in gpus})
