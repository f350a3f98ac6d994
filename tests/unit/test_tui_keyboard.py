# SPDX-License-Identifier: Apache-2.0
"""From what a terminal sends to keys."""

from __future__ import annotations

import os
import pty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.tui.keyboard import Keyboard, decode


@pytest.mark.parametrize(
    ("received", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1bOB\x1b[5~", ["up", "down", "pgup"]),
        ("\x1b[1~\x1b[F\x1b[[A", ["home", "end", "f1"]),
        ("\r\n\t\x7f \x0c", ["enter", "enter", "tab", "backspace", "space", "ctrl-l"]),
        ("ä/", ["ä", "/"]),
        ("\x1b[1;5C", []),
        ("\x1b[200~x\x1b[201~", ["x"]),
        ("\x1bx", ["esc", "x"]),
        ("\x1b\x1b[A", ["esc", "up"]),
    ],
)
def test_keys_have_names_and_what_has_none_is_swallowed_whole(received, keys):
    assert decode(received) == (keys, "")


@pytest.mark.parametrize("begun", ["\x1b", "\x1b[", "\x1b[1;", "\x1bO", "\x1b[["])
def test_what_may_go_on_is_kept(begun):
    assert decode("j" + begun) == (["j"], begun)


@given(st.text(alphabet=st.sampled_from("\x1b[O1~;Aqä \r"), max_size=30))
def test_whatever_comes_in_two_parts_gives_the_same_keys(received):
    whole, rest = decode(received)
    for cut in range(len(received) + 1):
        first, begun = decode(received[:cut])
        second, end = decode(begun + received[cut:])
        assert (first + second, end) == (whole, rest)


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    quiet, rope = os.pipe()
    with open(slave, closefd=False) as opened:
        yield master, opened, quiet
    for descriptor in (master, slave, quiet, rope):
        os.close(descriptor)


def test_escape_alone_is_a_key_after_a_moment(terminal):
    master, opened, quiet = terminal
    with Keyboard(opened) as keyboard:
        os.write(master, b"\x1b")
        assert keyboard.wait(quiet, 5) == []
        assert keyboard.wait(quiet, 5) == ["esc"]


def test_a_letter_that_comes_in_two_parts_is_one(terminal):
    master, opened, quiet = terminal
    with Keyboard(opened) as keyboard:
        os.write(master, "ä".encode()[:1])
        assert keyboard.wait(quiet, 5) == []
        os.write(master, "ä".encode()[1:])
        assert keyboard.wait(quiet, 5) == ["ä"]
