# SPDX-License-Identifier: Apache-2.0
"""Credit pages: what the daemon reads out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.core.identity import GpuUuid, ProcessKey
from convgpu.daemon.page import CreditPage
from convgpu.errors import ConvgpuError, ProtocolError
from convgpu.native import native_dir
from convgpu.sources.nvml import Gpu

UUID = GpuUuid("GPU-5ca1ab1e-0000-0000-0000-000000000001")


@pytest.fixture
def page(tmp_path: Path) -> CreditPage:
    try:
        native_dir()
    except ConvgpuError as error:
        pytest.skip(error.message)
    gpu = Gpu(uuid=UUID, index=0, minor=0, name="G", total_bytes=1 << 30, pci_domain=0, pci_bus=5, pci_device=0)
    return CreditPage.create(tmp_path, ProcessKey(7, 8), [gpu])


def test_managed_memory_is_held_and_not_used(page):
    page.grant(0, 100)
    account = page._raw.device[0]
    account.used_bytes, account.managed_bytes, account.credit_bytes = 30, 50, 15
    read = page.read(0)
    assert (read.used_bytes, read.managed_bytes, read.held_bytes) == (30, 50, 80)
    assert read.unexplained_bytes == 5


def test_a_page_of_another_version_is_refused(page, tmp_path):
    page._raw.abi_version -= 1
    with pytest.raises(ProtocolError, match="version 1"):
        CreditPage.open(page.path)


def test_what_the_wrapper_could_not_read_is_known(page):
    assert not page.estimated
    page._raw.estimated = 1
    assert page.estimated


@pytest.mark.parametrize("fail_open", [True, False])
def test_the_policy_for_an_absent_daemon_is_in_the_page(page, fail_open):
    page.set_fail_open(fail_open=fail_open)
    assert page._raw.fail_open == fail_open
