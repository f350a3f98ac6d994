# SPDX-License-Identifier: Apache-2.0
"""The state file survives, and says so when it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.daemon.state import StateFile
from convgpu.errors import ConvgpuError


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    first = StateFile(tmp_path / "state.json")
    first.container("a").limit_bytes = 5
    first.state.context_bytes["GPU-1"] = 3
    first.save()
    again = StateFile(tmp_path / "state.json")
    assert again.container("a").limit_bytes == 5
    assert again.state.context_bytes == {"GPU-1": 3}


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StateFile(path)
    state.save()
    path.unlink()
    state.save()
    assert not path.exists()
    state.container("a")
    state.save()
    assert path.exists()


@pytest.mark.parametrize("content", [b"{", b'{"version": 999}', b'{"containers": 3}'])
def test_a_file_that_cannot_be_read_stops_the_start_and_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(ConvgpuError) as caught:
        StateFile(path)
    assert str(path) in caught.value.message
    assert caught.value.next_step is not None


def test_a_removed_container_is_forgotten(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.json")
    state.container("a").limit_bytes = 5
    state.forget("a")
    state.save()
    assert StateFile(tmp_path / "state.json").container("a").limit_bytes is None
