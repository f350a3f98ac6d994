# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from convgpu.core.quota import Quota
from convgpu.errors import UsageError


@pytest.mark.parametrize(("limit", "guarantee"), [(1, 0), (1, 1), (5, 3)])
def test_a_guarantee_is_part_of_the_limit(limit: int, guarantee: int) -> None:
    assert Quota(limit, guarantee) == Quota(limit_bytes=limit, guarantee_bytes=guarantee)


@pytest.mark.parametrize(("limit", "guarantee"), [(0, 0), (-1, 0), (5, 6), (5, -1)])
def test_everything_else_is_refused(limit: int, guarantee: int) -> None:
    with pytest.raises(UsageError):
        Quota(limit, guarantee)
