# SPDX-License-Identifier: Apache-2.0
"""The live monitor in a real pseudo-terminal, against a real control socket."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace

import pytest

from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import container_status, sample_snapshot

ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
PATIENCE_S = 20.0


class Terminal:
    """A pseudo-terminal with `convgpu top` in it."""

    def __init__(self, run_dir, *options, columns=80, lines=24, term="xterm-256color"):
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        environment = {**os.environ, "CONVGPU_RUN_DIR": str(run_dir), "TERM": term}
        environment.pop("COLUMNS", None)
        environment.pop("LINES", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "convgpu.cli.main", "top", *options],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment,
            start_new_session=True,
            # As from a terminal, also where the tests run in the background: there a shell has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def resize(self, columns, lines):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_for(self, text, *, after=0):
        """Read until a text appears in what came after a position; return the position behind it."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen[after:]:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear in {self.seen[after:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 65536)
            elif self.process.poll() is not None:
                pytest.fail(f"the monitor ended: {self.seen!r}")
        return self.seen.index(text, after) + len(text)

    def press(self, keys):
        os.write(self.master, keys)

    def end(self):
        """Wait for the program; return its status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "the monitor does not end"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.process.returncode

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def server(tmp_path):
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock") as fake:
        yield fake


@pytest.fixture
def open_terminal(tmp_path):
    opened = []

    def open_one(*options, **size):
        opened.append(Terminal(tmp_path, *options, **size))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def test_q_leaves_and_the_terminal_is_as_before(server, open_terminal):
    terminal = open_terminal()
    terminal.wait_for(ENTER_SCREEN)
    terminal.wait_for(b"q quit")
    terminal.press(b"q")
    assert terminal.end() == 0
    assert terminal.seen.index(LEAVE_SCREEN) > terminal.seen.index(ENTER_SCREEN)
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_ctrl_c_leaves_without_a_traceback(server, open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"q quit")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.seen
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_new_figures_appear(server, open_terminal):
    terminal = open_terminal("--interval", "0.1")
    shown = terminal.wait_for(b"q quit")
    server.snapshot = replace(server.snapshot, containers=(container_status("newcomer"),), queue=())
    terminal.wait_for(b"newcomer", after=shown)


def test_a_lost_daemon_is_said_and_asked_for_again(server, open_terminal):
    terminal = open_terminal("--interval", "0.1", columns=160)
    shown = terminal.wait_for(b"q quit")
    server.stop()
    lost = terminal.wait_for(b"trying again", after=shown)
    terminal.wait_for(b"alpha", after=lost - 200)
    server.snapshot = replace(server.snapshot, containers=(container_status("returned"),), queue=())
    server.start()
    back = terminal.wait_for(b"returned", after=lost)
    terminal.wait_for(b"q quit", after=back)
    assert b"trying again" not in terminal.seen[back:]
    assert terminal.process.poll() is None


def test_another_size_is_drawn_without_being_asked(server, open_terminal):
    """The interval is long: only the new size can have caused the drawing."""
    terminal = open_terminal("--interval", "60", columns=80)
    shown = terminal.wait_for(b"q quit")
    assert b"WITNESS" not in terminal.seen
    terminal.resize(160, 40)
    terminal.wait_for(b"WITNESS", after=shown)
    terminal.resize(1, 1)
    time.sleep(0.6)
    terminal.resize(80, 24)
    terminal.press(b"q")
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.seen


def test_no_daemon_at_the_start_is_an_error_not_a_screen(open_terminal):
    terminal = open_terminal()
    assert terminal.end() == 3
    assert b"next: start it with `convgpu daemon`" in terminal.seen
    assert ENTER_SCREEN not in terminal.seen


def test_a_dumb_terminal_gets_one_table(server, open_terminal):
    terminal = open_terminal(term="dumb")
    assert terminal.end() == 0
    assert b"alpha" in terminal.seen
    assert b"\x1b" not in terminal.seen
