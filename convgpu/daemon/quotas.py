# SPDX-License-Identifier: Apache-2.0
"""Which quota a container gets on each of its devices: by its labels, or by what the operator set for all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from convgpu.config.forms import AUTO, DENY, NO_LIMIT
from convgpu.config.keys import DaemonConfig
from convgpu.core.amount import Amount
from convgpu.core.identity import GpuUuid
from convgpu.core.quota import Quota
from convgpu.core.units import format_size
from convgpu.errors import QuotaRefusedError, UsageError
from convgpu.oci.labels import LabelSettings
from convgpu.sources.nvml import Gpu


@dataclass(frozen=True, slots=True)
class Share:
    """What a container is to get.

    Attributes:
        quotas: Limit and guarantee on each of its devices.
        source: Where the limit comes from: `label`, `command` or `default`.
        guarantee_fixed: The guarantee was named, so it does not follow the limit.
    """

    quotas: Mapping[GpuUuid, Quota]
    source: str
    guarantee_fixed: bool


def share_of(
    labels: LabelSettings, gpus: tuple[Gpu, ...], config: DaemonConfig, capacities: Mapping[GpuUuid, int]
) -> Share:
    """Return what a container's labels ask for, or what holds for containers without a limit of their own.

    Args:
        labels: What the container asks for.
        gpus: The devices it was given.
        config: What holds for containers that name no limit.
        capacities: What may be assigned on each device, in bytes.

    Raises:
        QuotaRefusedError: It has no limit, and a device takes no container without, or has nothing left.
        UsageError: Its label asks for a guarantee that is more than the limit it gets.
    """
    if labels.limit_bytes is not None:
        return same_on_all(gpus, labels.limit_bytes, labels.guarantee_bytes, "label")
    quotas = {gpu.uuid: _default(gpu, config, capacities[gpu.uuid], labels.guarantee_bytes) for gpu in gpus}
    fixed = labels.guarantee_bytes is not None or any(_is_fixed(gpu, config) for gpu in gpus)
    return Share(quotas, "default", fixed)


def within(share: Share, bounds: Mapping[GpuUuid, int | None]) -> Share:
    """Return a share cut to the most that there can be on each device; None: it is not cut there."""
    quotas = dict(share.quotas)
    for gpu, most_bytes in bounds.items():
        if gpu in quotas and most_bytes is not None and quotas[gpu].limit_bytes > most_bytes:
            quotas[gpu] = Quota(most_bytes, min(quotas[gpu].guarantee_bytes, most_bytes))
    return replace(share, quotas=quotas)


def with_limit(quotas: Mapping[GpuUuid, Quota], limit_bytes: int, guarantee_fixed: bool) -> dict[GpuUuid, Quota]:
    """Return quotas with another limit: a guarantee that was named stays as far as it fits, others follow the limit."""
    return {
        uuid: Quota(limit_bytes, min(quota.guarantee_bytes, limit_bytes) if guarantee_fixed else limit_bytes)
        for uuid, quota in quotas.items()
    }


def refuse_impossible(limit_bytes: int, guarantee_bytes: int | None, capacities: Iterable[int]) -> None:
    """Refuse a quota that no container could ever have.

    Raises:
        QuotaRefusedError: Larger than the largest device; the message says both numbers.
        UsageError: The guarantee is larger than the limit.
    """
    Quota(limit_bytes=limit_bytes, guarantee_bytes=limit_bytes if guarantee_bytes is None else guarantee_bytes)
    largest = max(capacities)
    if limit_bytes > largest:
        raise QuotaRefusedError(
            f"a limit of {format_size(limit_bytes)} is more than a device here can give ({format_size(largest)})",
            next_step="ask for less; `convgpu top --once` shows what the devices have",
        )


def same_on_all(gpus: tuple[Gpu, ...], limit_bytes: int, guarantee_bytes: int | None, source: str) -> Share:
    """Return one quota for all devices; without a guarantee, all of the limit is set aside."""
    quota = Quota(limit_bytes, limit_bytes if guarantee_bytes is None else guarantee_bytes)
    return Share({gpu.uuid: quota for gpu in gpus}, source, guarantee_bytes is not None)


def _is_fixed(gpu: Gpu, config: DaemonConfig) -> bool:
    settings = config.of_device(gpu.uuid, gpu.index)
    return settings.default_guarantee != AUTO or settings.default_limit == NO_LIMIT


def _default(gpu: Gpu, config: DaemonConfig, capacity_bytes: int, asked_bytes: int | None) -> Quota:
    settings = config.of_device(gpu.uuid, gpu.index)
    if settings.default_limit == DENY:
        raise QuotaRefusedError(
            f"containers without a convgpu.limit label may not use GPU {gpu.index} here",
            next_step="start it with `convgpu run --limit SIZE -- ...`",
        )
    if isinstance(settings.default_limit, Amount):
        limit_bytes = settings.default_limit.of(capacity_bytes)
    else:
        limit_bytes = capacity_bytes
    if limit_bytes <= 0:
        raise QuotaRefusedError(
            f"GPU {gpu.index} has nothing left to give to a container without a convgpu.limit label",
            next_step="see with `convgpu top --once` what is held outside ConvGPU",
        )
    if asked_bytes is not None and asked_bytes > limit_bytes:
        raise UsageError(
            f"label convgpu.guarantee asks for {asked_bytes} bytes, more than the default limit of {limit_bytes} bytes "
            f"on GPU {gpu.index}: give the container a convgpu.limit too"
        )
    if asked_bytes is not None:
        guarantee_bytes = asked_bytes
    elif isinstance(settings.default_guarantee, Amount):
        guarantee_bytes = min(settings.default_guarantee.of(capacity_bytes), limit_bytes)
    else:
        # Nothing was asked for and nothing is configured: it may use what is free, and nothing is kept for it.
        guarantee_bytes = 0 if settings.default_limit == NO_LIMIT else limit_bytes
    return Quota(limit_bytes, guarantee_bytes)
