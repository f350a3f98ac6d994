# SPDX-License-Identifier: Apache-2.0
"""Texts laid out in cells: some letters take two of them."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from convgpu.tui.columns import wrapped


def test_a_text_is_wrapped_between_words() -> None:
    assert wrapped("waits for  alpha to end", 9) == ["waits for", "alpha to", "end"]


@pytest.mark.parametrize("width", range(1, 12))
def test_no_line_takes_more_cells_than_there_are(width: int) -> None:
    text = "漢字漢字漢字 and 😀 of a-name-without-an-end"
    lines = wrapped(text, width)
    assert lines
    assert all(0 < cell_len(line) <= width for line in lines)
    if width > 1:
        assert "".join(lines).replace(" ", "") == text.replace(" ", ""), "nothing is lost"
