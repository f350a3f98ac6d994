# SPDX-License-Identifier: Apache-2.0
"""What tests, demo and benchmarks share to set a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from convgpu.testing.stage import interpreter


def test_an_interpreter_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python-of-mine"
    python.symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert interpreter("python-of-mine") == str(python), (
        "not what the link names: a virtual environment is left by that"
    )
    with pytest.raises(ValueError, match="python-of-theirs"):
        interpreter("python-of-theirs")
