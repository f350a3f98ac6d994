# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr, for work that takes more than a moment, where stderr is a terminal."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

_PATIENCE_S: Final = 1.0


class Progress:
    """Shows how much is done, from the first second on, also while a single part takes longer than that.

    Args:
        label: What is done.
        total: How much there is of it.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._began_s = time.monotonic()
        self._wanted = sys.stderr.isatty()
        self._file = _own(sys.stderr) if self._wanted else sys.stderr
        self._bar: ProgressBar[str] | None = None
        self._done = 0
        self._shown = 0
        self._about = ""
        self._lock = threading.Lock()
        self._timer = threading.Timer(_PATIENCE_S, self._appear)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._wanted:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if self._bar is not None:
                self._bar.render_finish()
        if self._file is not sys.stderr:
            self._file.close()

    def step(self) -> None:
        """One more is done."""
        self.reach(self._done + 1)

    def reach(self, done: int, about: str = "") -> None:
        """So much of it is done.

        Args:
            done: How much, from the beginning.
            about: What is at work now, where the parts have names.
        """
        self._done = done
        self._about = about
        if self._bar is not None:
            with self._lock:
                self._draw(self._bar)
        elif self._wanted and time.monotonic() - self._began_s >= _PATIENCE_S:
            self._appear()

    def _appear(self) -> None:
        with self._lock:
            if self._bar is not None:
                return
            self._bar = click.progressbar(
                length=self._total, label=self._label, item_show_func=lambda about: about, file=self._file
            )
            self._draw(self._bar)

    def _draw(self, bar: ProgressBar[str]) -> None:
        bar.update(self._done - self._shown, self._about)
        bar.render_progress()  # click leaves it out where nothing has moved
        self._shown = self._done


def _own(stream: TextIO) -> TextIO:
    """Return the same terminal by a descriptor of its own: what compiles programs takes stderr to itself meanwhile."""
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding)
    except io.UnsupportedOperation:  # it is no file
        return stream
