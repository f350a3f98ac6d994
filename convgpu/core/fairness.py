# SPDX-License-Identifier: Apache-2.0
"""How evenly something is spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_DIGITS: Final = 6


def jain_index(shares: Sequence[float]) -> float | None:
    """Return 1 if all shares are equal, 1/n if one has all; None of nothing.

    (sum x)^2 / (n sum x^2); R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and Discrimination for
    Resource Allocation in Shared Computer Systems", DEC-TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    if not squares:
        return None
    return round(sum(shares) ** 2 / (len(shares) * squares), _DIGITS)
