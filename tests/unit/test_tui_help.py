# SPDX-License-Identifier: Apache-2.0
"""One table of keys for the program, its help and its documentation."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

from convgpu.tui.controls import Shown, press
from convgpu.tui.glyphs import BLOCKS
from convgpu.tui.help import SECTIONS, help_lines
from convgpu.tui.keys import KEYS, Action, written, written_all
from convgpu.tui.state import State

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_tables_say():
    """If it is not: python tools/monitor_reference.py."""
    tool = runpy.run_path(str(ROOT / "tools" / "monitor_reference.py"))
    assert tool["PAGE"].read_text() == tool["page"]()


def test_every_action_has_a_key_and_no_key_has_two():
    assert {key.action for key in KEYS} == set(Action)
    names = Counter(name for key in KEYS for name in key.names)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_help_has_every_key_column_and_state_with_its_meaning():
    text = "\n".join(line.plain for line in help_lines(300, BLOCKS, edit=True))
    for key in KEYS:
        assert f"  {written_all(key)} " in text
        assert key.meaning in text
    for _, columns in SECTIONS:
        for column in columns:
            assert column.meaning, column.heading
            assert column.meaning in text


def test_what_needs_edit_is_not_in_the_help_without_it():
    text = "\n".join(line.plain for line in help_lines(120, BLOCKS, edit=False))
    assert "sets the limit" not in text
    assert "--edit" in text


def test_keys_are_written_as_on_a_keyboard():
    assert [written(name) for name in ("ctrl-z", "pgup", "f1", "q", "?")] == ["Ctrl-Z", "PgUp", "F1", "q", "?"]


def test_every_key_does_something():
    """All but those that the terminal or a missing row takes: on one page or the other the choices change."""
    for key in KEYS:
        if key.action in (Action.SUSPEND, Action.BACK):
            continue
        for name in key.names:
            state = State(edit=True, scrolled={"help": 3}, page="help") if key.group == "Move" else State(edit=True)
            shown = Shown((), scroll_most=9, queue=1, events=1)
            step = press(state, name, shown)
            needs_row = key.action in (Action.DETAIL, Action.PREVIOUS, Action.NEXT, Action.LIMIT, Action.FOCUS)
            assert needs_row or step.quit or step.redraw or step.picture or step.state != state, name
