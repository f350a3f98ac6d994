# SPDX-License-Identifier: Apache-2.0
"""The monitor on a terminal: once as a plain table, or live."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console

from convgpu.api import Client
from convgpu.core.events import LogEvent
from convgpu.core.status import Snapshot
from convgpu.tui import order
from convgpu.tui.bell import Bell
from convgpu.tui.containers import ContainerRow, container_rows
from convgpu.tui.controls import Shown, Step, press
from convgpu.tui.errand import Errand
from convgpu.tui.export import export_svg
from convgpu.tui.feed import Feed, Reading
from convgpu.tui.glyphs import ASCII, Glyphs, glyphs_for
from convgpu.tui.history import History
from convgpu.tui.keyboard import Keyboard
from convgpu.tui.news import News
from convgpu.tui.screen import Screen
from convgpu.tui.signals import Signals
from convgpu.tui.state import Ask, Page, Prompt, State
from convgpu.tui.view import Scene, cursor_of, longest_scroll, selected_container, view

_ANSWER_SHOWN_S: Final = 6.0
"""How long it is said that something was done; what failed is said until a key is pressed."""
_NOTICE_CHECK_S: Final = 1.0
"""How often a notice that counts seconds is looked at where nothing else happens."""
_PIPE_WIDTH: Final = 160
"""Columns where the output is no terminal and COLUMNS is not set: wide enough for every figure of a container."""


def is_interactive() -> bool:
    """Tell whether a live screen makes sense: keys can come in, and the terminal can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and not Console().is_dumb_terminal


def print_once(snapshot: Snapshot, *, ascii_only: bool = False) -> None:
    """Print one plain table. NO_COLOR and an output that is no terminal mean no escape sequences."""
    piped_width = _PIPE_WIDTH if not sys.stdout.isatty() and "COLUMNS" not in os.environ else None
    console = Console(width=piped_width, highlight=False, soft_wrap=True)
    console.print(view(snapshot, console.width, glyphs=_glyphs(console, ascii_only=ascii_only)))


def watch(path: Path, interval_s: float, *, edit: bool = False, ascii_only: bool = False) -> None:
    """Show the live screen until somebody leaves it.

    A daemon that goes away leaves the last figures on the screen, with a notice, and is asked for again.

    Args:
        path: The control socket.
        interval_s: Seconds between two refreshes.
        edit: Whether limits may be changed.
        ascii_only: Draw with ASCII characters whatever the terminal can take.

    Raises:
        DaemonUnavailableError: Nobody answers at the start.
    """
    with Client(path) as client:
        first = client.snapshot()
    console = Console(highlight=False)
    bell = Bell()
    with (
        contextlib.suppress(EOFError),
        Signals(bell) as signals,
        Feed(path, interval_s, first, bell) as feed,
        News(path, bell) as news,
        Keyboard(sys.stdin) as keyboard,
    ):
        monitor = _Monitor(path, console, bell, feed, news, State(interval_s=interval_s, edit=edit), ascii_only)
        screen = Screen(console)
        screen.enter()
        try:
            while not signals.ended and not monitor.ended:
                if signals.resized:
                    signals.resized = False
                    screen.forget()
                monitor.draw(screen)
                keys = keyboard.wait(bell.descriptor, _NOTICE_CHECK_S)
                bell.silence()
                for key in keys:
                    monitor.press(key, screen)
                if signals.suspended:
                    screen.leave()
                    keyboard.give_back()
                    signals.stop_here()
                    keyboard.take()
                    screen.enter()
        finally:
            screen.leave()


class _Held(NamedTuple):
    """What stays on the screen while it is paused."""

    reading: Reading
    history: History
    events: tuple[LogEvent, ...]


class _Monitor:
    """What is known and chosen at the moment, and the threads that bring news."""

    def __init__(
        self, path: Path, console: Console, bell: Bell, feed: Feed, news: News, state: State, ascii_only: bool
    ) -> None:
        self.ended = False
        self._path = path
        self._bell = bell
        self._feed = feed
        self._news = news
        self._state = state
        self._glyphs = _glyphs(console, ascii_only=ascii_only)
        self._history = History()
        self._taken: Snapshot | None = None
        self._held: _Held | None = None
        self._errand: Errand | None = None
        self._answered: tuple[Prompt, float] | None = None

    def draw(self, screen: Screen) -> None:
        """Show how things are now."""
        self._look()
        width, height = screen.size
        reading, scene = self._scene()
        screen.draw(view(reading.snapshot, width, height, glyphs=self._glyphs, scene=scene))

    def press(self, key: str, screen: Screen) -> None:
        """Do what a key says."""
        self._look()
        width, height = screen.size
        reading, scene = self._scene()
        rows = self._rows(reading)
        most = 0
        if self._state.page is not Page.MAIN:
            most = longest_scroll(reading.snapshot, width, height, scene, self._glyphs)
        shown = Shown(
            rows=rows,
            cursor=cursor_of(rows, self._state),
            page_lines=height // 2,
            scroll_most=most,
            queue=len(reading.snapshot.queue),
            events=len(scene.events),
        )
        self._carry_out(press(self._state, key, shown), reading, screen)

    def _carry_out(self, step: Step, reading: Reading, screen: Screen) -> None:
        self._state = step.state
        self.ended = self.ended or step.quit
        if step.set_limit is not None:
            self._errand = Errand(self._path, step.set_limit, self._bell)
        if not self._state.paused:
            self._held = None
        elif self._held is None:
            self._held = _Held(reading, self._history.copy(), self._news.latest())
        if step.redraw:
            screen.forget()
        if step.picture:
            self._state = replace(self._state, prompt=self._picture(screen))
        self._ask(now=step.redraw)

    def _ask(self, *, now: bool) -> None:
        """Tell the feed what is wanted."""
        looked_at = None
        if self._state.page is Page.DETAIL:
            reading, _ = self._scene()
            looked_at = selected_container(self._rows(reading), self._state)
        self._feed.ask(self._state.interval_s, looked_at, now=now)

    def _picture(self, screen: Screen) -> Prompt:
        """Draw the screen as it is into a file, and return what is to be said of that."""
        reading, scene = self._scene()
        width, height = screen.size
        path = Path.cwd() / time.strftime("convgpu-top-%Y%m%d-%H%M%S.svg")
        try:
            # Never over or through what is there: the monitor often runs as root, also where others may write.
            with path.open("x", encoding="utf-8") as file:
                file.write(export_svg(reading.snapshot, width, height, glyphs=self._glyphs, scene=scene))
        except OSError as error:
            return Prompt(ask=Ask.FAILED, said=f"No picture: {path}: {error.strerror}")
        return Prompt(ask=Ask.DONE, said=f"The screen is in {path}.")

    def _look(self) -> None:
        """Take in what the threads and the time have brought."""
        snapshot = self._feed.latest().snapshot
        if snapshot is not self._taken:
            self._taken = snapshot
            self._history.take(snapshot, time.monotonic())
        asked = None if self._state.prompt is None else self._state.prompt.ask
        if self._errand is not None and self._errand.outcome is not None and asked in (None, Ask.BUSY):
            self._state = replace(self._state, prompt=self._errand.outcome)
            self._errand = None
            self._ask(now=True)
        self._forget_answer(time.monotonic())

    def _forget_answer(self, now_s: float) -> None:
        prompt = self._state.prompt
        if prompt is None or prompt.ask is not Ask.DONE:
            self._answered = None
        elif self._answered is None or self._answered[0] is not prompt:
            self._answered = (prompt, now_s)
        elif now_s - self._answered[1] >= _ANSWER_SHOWN_S:
            self._state = replace(self._state, prompt=None)

    def _scene(self) -> tuple[Reading, Scene]:
        latest = self._feed.latest()
        held = self._held or _Held(latest, self._history, self._news.latest())
        reading, detail = held.reading, held.reading.detail
        if detail is None or (latest.detail is not None and latest.detail.container_id != detail.container_id):
            detail = latest.detail  # of a container that was not looked at before the pause
        scene = Scene(
            state=self._state,
            history=held.history,
            events=held.events,
            detail=detail,
            notice=latest.notice(time.monotonic(), self._state.interval_s) or self._news.trouble,
            live=True,
        )
        return reading, scene

    def _rows(self, reading: Reading) -> list[ContainerRow]:
        return order.arrange(container_rows(reading.snapshot), self._state)


def _glyphs(console: Console, *, ascii_only: bool) -> Glyphs:
    return ASCII if ascii_only else glyphs_for(console.encoding, os.environ.get("TERM", ""))
