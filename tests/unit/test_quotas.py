# SPDX-License-Identifier: Apache-2.0
"""Which quota a container gets: by its labels, else by the default of each device."""

from __future__ import annotations

import pytest

from convgpu.config.keys import DaemonConfig
from convgpu.core.amount import Amount
from convgpu.core.units import GIB
from convgpu.daemon.quotas import Share, share_of
from convgpu.errors import QuotaRefusedError, UsageError
from convgpu.oci.labels import LabelSettings
from convgpu.testing.gpus import make_gpu

GPUS = (make_gpu(0), make_gpu(1))
QUARTER = Amount(share_ppm=250_000)


def share(config: DaemonConfig | None = None, *, small: int = 8 * GIB, large: int = 16 * GIB, **labels: int) -> Share:
    capacities = {GPUS[0].uuid: small, GPUS[1].uuid: large}
    return share_of(LabelSettings(**labels), GPUS, config or DaemonConfig(), capacities)


def figures(of: Share) -> list[tuple[int, int]]:
    return [(of.quotas[gpu.uuid].limit_bytes, of.quotas[gpu.uuid].guarantee_bytes) for gpu in GPUS]


def test_a_label_holds_on_every_device_whatever_the_default() -> None:
    labelled = share(DaemonConfig(default_limit="deny"), limit_bytes=4 * GIB)
    assert figures(labelled) == [(4 * GIB, 4 * GIB)] * 2
    assert (labelled.source, labelled.guarantee_fixed) == ("label", False)
    assert share(limit_bytes=4 * GIB, guarantee_bytes=0).guarantee_fixed


def test_without_label_and_default_all_of_each_device_may_be_used_and_nothing_is_kept() -> None:
    plain = share()
    assert figures(plain) == [(8 * GIB, 0), (16 * GIB, 0)]
    assert (plain.source, plain.guarantee_fixed) == ("default", True)


def test_a_default_size_is_kept_from_the_start() -> None:
    by_default = share(DaemonConfig(default_limit=Amount(2 * GIB)))
    assert figures(by_default) == [(2 * GIB, 2 * GIB)] * 2
    assert not by_default.guarantee_fixed


def test_a_default_share_is_one_of_each_device() -> None:
    assert figures(share(DaemonConfig(default_limit=QUARTER))) == [(2 * GIB, 2 * GIB), (4 * GIB, 4 * GIB)]


def test_a_default_guarantee_is_never_more_than_the_limit() -> None:
    config = DaemonConfig(default_limit=QUARTER, default_guarantee=Amount(3 * GIB))
    assert figures(share(config)) == [(2 * GIB, 2 * GIB), (4 * GIB, 3 * GIB)]
    assert share(config).guarantee_fixed


def test_a_guarantee_can_be_kept_for_those_whose_limit_is_the_device() -> None:
    config = DaemonConfig(default_guarantee=Amount(share_ppm=125_000))
    assert figures(share(config)) == [(8 * GIB, GIB), (16 * GIB, 2 * GIB)]


def test_a_device_can_have_a_default_of_its_own() -> None:
    config = DaemonConfig(default_limit=Amount(GIB), devices={"1": {"default_limit": "none"}})
    assert figures(share(config)) == [(GIB, GIB), (16 * GIB, 0)]


@pytest.mark.parametrize(
    ("config", "index"),
    [(DaemonConfig(default_limit="deny"), 0), (DaemonConfig(devices={"1": {"default_limit": "deny"}}), 1)],
)
def test_a_device_that_denies_is_named(config: DaemonConfig, index: int) -> None:
    with pytest.raises(QuotaRefusedError, match=f"may not use GPU {index} here"):
        share(config)


def test_a_guarantee_by_label_holds_within_the_default_limit() -> None:
    assert figures(share(guarantee_bytes=GIB)) == [(8 * GIB, GIB), (16 * GIB, GIB)]
    with pytest.raises(UsageError, match=r"convgpu.guarantee asks for .* on GPU 0"):
        share(guarantee_bytes=9 * GIB)


def test_a_device_with_nothing_left_says_so() -> None:
    for config in (DaemonConfig(), DaemonConfig(default_limit=QUARTER)):
        with pytest.raises(QuotaRefusedError, match="GPU 0 has nothing left"):
            share(config, small=0)
