# SPDX-License-Identifier: Apache-2.0
"""The live monitor in a real pseudo-terminal, against a real control socket; pyte says what a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pyte
import pytest

import convgpu
from convgpu.core.events import LogEvent
from convgpu.core.units import GIB, MIB
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import container_status, device_usage, sample_snapshot

ALTERNATE_SCREEN = 1049 << 5  # as pyte counts private modes
UP, DOWN, ESC, ENTER = b"\x1b[A", b"\x1b[B", b"\x1b", b"\r"
PATIENCE_S = 20.0


class Terminal:
    """A pseudo-terminal with `convgpu top` in it."""

    def __init__(self, run_dir, *options, columns=80, lines=24, shell=False, folder=None, stderr=None, **environment):
        self.master, self.slave = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        inherited["PYTHONPATH"] = str(Path(convgpu.__file__).parents[1])  # the same package, whatever the folder
        command = [sys.executable, "-m", "convgpu.cli.main", "top", *options]
        if shell:  # one with job control, from which the monitor can be stopped: it says so, and `fg` is Enter
            script = f"set -m; {shlex.join(command)}; echo STOPPED; read line; fg > /dev/null"
            command = ["bash", "-c", script]
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=stderr or self.slave,
            cwd=folder,
            env={**inherited, "CONVGPU_RUN_DIR": str(run_dir), "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=self._as_from_a_terminal,
        )

    @staticmethod
    def _as_from_a_terminal():
        """Also where the tests run in the background: there a shell has Ctrl-C ignored."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, columns, lines):
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]

    def read(self, timeout_s):
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        received = os.read(self.master, 65536)
        self.seen += received
        self.stream.feed(received)
        return True

    def until(self, what, condition):
        """Read until a condition of the lines on the screen holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(self.lines):
            shown = "\n".join(self.lines)
            assert time.monotonic() < deadline, f"in vain: {what}\n{shown}"
            assert self.read(0.1) or self.process.poll() is None, f"the monitor ended, before: {what}\n{shown}"
        return self.lines

    def shows(self, text):
        return self.until(f"it shows {text!r}", lambda lines: any(text in line for line in lines))

    def hides(self, text):
        return self.until(f"it does not show {text!r}", lambda lines: not any(text in line for line in lines))

    def press(self, *keys):
        for key in keys:
            os.write(self.master, key if isinstance(key, bytes) else key.encode())

    def end(self):
        """Wait for the program; return its status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "the monitor does not end"
            self.read(0.05)
        while self.read(0):
            pass
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

    def open_one(*options, **more):
        opened.append(Terminal(tmp_path, *options, **more))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


@pytest.fixture
def terminal(server, open_terminal):
    opened = open_terminal("--interval", "0.1")
    opened.shows("q quit")
    return opened


def test_q_leaves_and_the_terminal_is_as_before(terminal):
    assert ALTERNATE_SCREEN in terminal.screen.mode
    terminal.press("q")
    assert terminal.end() == 0
    assert ALTERNATE_SCREEN not in terminal.screen.mode
    assert termios.tcgetattr(terminal.slave) == terminal.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_without_a_traceback(terminal, number):
    terminal.process.send_signal(number)
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.seen
    assert ALTERNATE_SCREEN not in terminal.screen.mode
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_a_terminal_that_is_closed_ends_it_in_good_order(server, open_terminal, tmp_path):
    with (tmp_path / "stderr").open("w") as stderr:
        terminal = open_terminal(stderr=stderr)
        terminal.shows("q quit")
        os.close(terminal.master)
        assert terminal.process.wait(PATIENCE_S) == 0
        terminal.master = os.open("/dev/null", os.O_RDONLY)
    assert (tmp_path / "stderr").read_text() == ""


def test_new_figures_appear(server, terminal):
    server.snapshot = replace(server.snapshot, containers=(container_status("newcomer"),), queue=())
    terminal.shows("newcomer")


def test_only_what_changed_is_written(server, terminal):
    before = len(terminal.seen)
    first, *others = server.snapshot.containers
    changed = replace(first, devices=(replace(first.devices[0], denied=7),))
    server.snapshot = replace(server.snapshot, containers=(changed, *others))
    terminal.until("it is denied 7", lambda lines: any(re.match(r"alpha .* 7 ", line) for line in lines))
    assert b"EXTERNAL" in terminal.seen[:before]
    assert b"EXTERNAL" not in terminal.seen[before:]


def test_a_lost_daemon_is_said_and_asked_for_again(server, open_terminal):
    terminal = open_terminal("--interval", "0.1", columns=160)
    terminal.shows("q quit")
    server.stop()
    lines = terminal.shows("trying again")
    assert any(line.startswith("alpha") for line in lines), "the last figures stay"
    server.snapshot = replace(server.snapshot, containers=(container_status("returned"),), queue=())
    server.events.append(event(1, "returned is told"))
    server.start()
    terminal.shows("returned")
    terminal.hides("trying again")
    terminal.shows("returned is told")


def test_what_happens_is_told_as_it_happens_and_once(server, terminal):
    server.events.append(event(1, "gamma was denied 2GiB"))
    terminal.shows("gamma was denied 2GiB")
    server.stop()
    terminal.shows("trying again")
    server.start()
    server.events.append(event(2, "something new"))
    lines = terminal.shows("something new")
    assert sum("gamma was denied" in line for line in lines) == 1


def test_a_log_that_begins_anew_is_told_all_the_same(server, terminal):
    server.events.append(event(50, "of the old log"))
    terminal.shows("of the old log")
    server.stop()
    terminal.shows("trying again")
    server.events[:] = [replace(event(1, "of the new log"), ts="2026-03-02T00:00:00.000000000Z")]
    server.start()
    terminal.shows("of the new log")


def test_another_size_is_drawn_without_being_asked(server, open_terminal):
    """The interval is long: only the new size can have caused the drawing."""
    terminal = open_terminal("--interval", "60")
    terminal.shows("q quit")
    terminal.hides("WITNESS")
    terminal.resize(160, 40)
    terminal.shows("WITNESS")
    terminal.resize(1, 1)
    time.sleep(0.3)
    terminal.resize(80, 24)
    terminal.shows("q quit")
    terminal.press("q")
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.seen


def test_suspended_it_gives_the_terminal_back_and_comes_back_where_it_was(server, open_terminal):
    terminal = open_terminal("--interval", "0.1", shell=True)
    terminal.shows("q quit")
    terminal.press(DOWN, "t")
    terminal.shows("4302 story")
    terminal.press(b"\x1a")
    terminal.shows("STOPPED")
    assert ALTERNATE_SCREEN not in terminal.screen.mode
    assert termios.tcgetattr(terminal.slave) == terminal.before
    terminal.screen.reset()  # the shell wrote over everything
    terminal.press(ENTER)
    terminal.shows("4302 story")
    cursor_on(terminal, "gamma")
    assert ALTERNATE_SCREEN in terminal.screen.mode
    terminal.press("q")
    assert terminal.end() == 0


def test_the_cursor_stays_with_its_container(server, terminal):
    terminal.press(DOWN)
    cursor_on(terminal, "gamma")
    alpha, gamma, beta = server.snapshot.containers
    server.snapshot = replace(server.snapshot, containers=(beta, alpha, container_status("new"), gamma))
    terminal.shows("new ")
    cursor_on(terminal, "gamma")
    terminal.press("s")  # by name
    terminal.shows("sort name")
    cursor_on(terminal, "gamma")
    terminal.press(ENTER)
    terminal.shows("LEDGER")
    assert any(line.startswith("gamma ") for line in terminal.lines)
    terminal.press(ESC)
    terminal.hides("LEDGER")


def test_the_filter_is_typed_kept_and_taken_away(terminal):
    terminal.press("/", "GAM")
    terminal.shows("filter: GAM_")
    terminal.hides("alpha  ")
    terminal.press(ENTER)
    terminal.shows("filter 'GAM' 1 of 3")
    terminal.press(ESC)
    terminal.shows("alpha  ")
    terminal.press("/", "q", "z")
    terminal.shows("No container has all these words.")
    terminal.press(ESC)
    terminal.shows("alpha  ")


def test_a_pause_holds_figures_and_keys_still_work(server, terminal):
    terminal.press(" ")
    terminal.shows("PAUSED")
    server.snapshot = replace(server.snapshot, containers=(*server.snapshot.containers, container_status("later")))
    terminal.press("t")
    terminal.shows("4101 story")
    time.sleep(0.5)
    terminal.read(0)
    assert not any("later" in line for line in terminal.lines)
    terminal.press(" ")
    terminal.shows("later")


def test_without_edit_no_key_changes_a_limit(server, terminal):
    terminal.press("l", "1GiB", ENTER, "y")
    terminal.press("?", "G")
    terminal.shows("N/A is what nobody knows")
    assert not any("sets the limit" in line for line in terminal.lines)
    terminal.press("g")
    terminal.shows("goes back; from")
    terminal.resize(80, 100)
    terminal.shows("Limits can be changed where the monitor was started with --edit.")
    assert "limit_set" not in server.requests


def test_a_limit_is_set_after_both_values_were_confirmed(server, open_terminal):
    terminal = open_terminal("--edit", "--interval", "0.1")
    terminal.shows("EDIT")
    terminal.press("l", "6GiB", ENTER)
    terminal.shows("Change the limit of alpha from 5GiB to 6GiB?")
    terminal.press("n")
    terminal.shows("The limit of alpha is as it was.")
    assert "limit_set" not in server.requests
    terminal.press("l", "6GiB", ENTER, "y")
    terminal.shows("The limit of alpha is 6GiB now, it was 5GiB.")
    terminal.shows("/6.00GiB")
    terminal.hides("The limit of alpha is 6GiB now")  # by itself, after a while
    terminal.shows("q quit")
    terminal.press("l", "1GiB", ENTER, "y")
    terminal.shows("It holds 4608MiB, so it gets")


def test_what_the_daemon_refuses_is_said_in_place_and_the_monitor_goes_on(server, open_terminal):
    terminal = open_terminal("--edit", "--interval", "0.1")
    terminal.shows("EDIT")
    terminal.press("l", "much", ENTER)
    terminal.shows("'much' is not a size")
    terminal.press(b"\x15", "60GiB", ENTER, "y")
    terminal.shows("the limit 60GiB is more than GPU 0 has for containers")
    terminal.press("?")
    terminal.shows("goes back; from the main screen, leaves")
    terminal.press("q", "q")
    assert terminal.end() == 0


def test_a_picture_of_the_screen_never_goes_over_what_is_there(server, open_terminal, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    terminal = open_terminal(folder=folder, columns=100)
    terminal.shows("q quit")
    terminal.press(DOWN, "p")
    terminal.shows("The screen is in ")
    (picture,) = folder.iterdir()
    assert "gamma" in picture.read_text()
    for seconds in range(30):  # whichever second it will be
        moment = time.strftime("convgpu-top-%Y%m%d-%H%M%S.svg", time.localtime(time.time() + seconds))
        (folder / moment).unlink(missing_ok=True)
        (folder / moment).symlink_to(tmp_path / "precious")
    terminal.press("p")
    terminal.shows("No picture: ")
    assert not (tmp_path / "precious").exists()


def test_no_colour_means_none_and_the_cursor_is_seen_all_the_same(server, open_terminal):
    terminal = open_terminal(NO_COLOR="1")
    terminal.shows("q quit")
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", terminal.seen)
    cursor_on(terminal, "alpha")


def test_ascii_is_all_that_is_written_where_it_is_asked_for(server, open_terminal):
    server.snapshot = replace(sample_snapshot(), containers=(container_status("x", device_usage(512 * MIB, GIB)),))
    terminal = open_terminal("--ascii", columns=120)
    terminal.shows("##")
    terminal.press("q")
    assert terminal.end() == 0
    assert terminal.seen.isascii()


def test_no_daemon_at_the_start_is_an_error_not_a_screen(open_terminal):
    terminal = open_terminal()
    assert terminal.end() == 3
    assert b"next: start it with `convgpu daemon`" in terminal.seen
    assert ALTERNATE_SCREEN not in terminal.screen.mode


def test_a_dumb_terminal_gets_one_table(server, open_terminal):
    terminal = open_terminal(TERM="dumb")
    assert terminal.end() == 0
    assert b"alpha" in terminal.seen
    assert b"\x1b" not in terminal.seen


def event(seq, sentence):
    return LogEvent(
        seq=seq, ts="2026-03-01T12:00:00.000000000Z", mono_ns=seq, type="decision.denied", sentence=sentence
    )


def cursor_on(terminal, name):
    """Wait until the one row in reverse video is that of a container."""

    def reversed_rows(_):
        rows = [number for number in terminal.screen.buffer if terminal.screen.buffer[number][0].reverse]
        return [terminal.lines[number].split()[0] for number in rows] == [name]

    terminal.until(f"the cursor is on {name}", reversed_rows)
